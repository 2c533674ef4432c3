"""StorageService: signed URLs of file objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neptune_api.server.errors import unimplemented
from neptune_api.v1 import storage_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from neptune_api.v1 import storage_service_pb2 as pb

_FILES_MISSING: Final = "File objects are not stored yet: only the references to them are, as attributes."


class StorageService(storage_service_pb2_grpc.StorageServiceServicer):
    """Sign URLs of file objects."""

    def CreateSignedUrls(
        self, request: pb.CreateSignedUrlsRequest, context: grpc.ServicerContext
    ) -> pb.CreateSignedUrlsResponse:
        raise unimplemented(_FILES_MISSING)

    def CompleteMultipartUpload(
        self, request: pb.CompleteMultipartUploadRequest, context: grpc.ServicerContext
    ) -> pb.CompleteMultipartUploadResponse:
        raise unimplemented(_FILES_MISSING)
