"""StorageService: signed URLs of file objects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import grpc

from neptune_api.server import limits
from neptune_api.server.errors import StatusError, not_found
from neptune_api.server.files.storage import StorageError
from neptune_api.server.validation import Checks, shown
from neptune_api.v1.roles_pb2 import PROJECT_ROLE_MEMBER, PROJECT_ROLE_VIEWER
from neptune_api.v1.storage_service_pb2 import (
    FILE_PERMISSION_READ,
    FILE_PERMISSION_WRITE,
    STORAGE_PROVIDER_AZURE,
    CreateSignedUrlsResponse,
    FilePermission,
    SignedFile,
)
from neptune_api.v1.storage_service_pb2_grpc import StorageServiceServicer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neptune_api.server.access import Access
    from neptune_api.server.files.storage import FileStorage
    from neptune_api.server.identity import Addresses
    from neptune_api.v1.storage_service_pb2 import (
        CompleteMultipartUploadRequest,
        CompleteMultipartUploadResponse,
        CreateSignedUrlsRequest,
    )

_METHODS: Final[Mapping[FilePermission.ValueType, str]] = {FILE_PERMISSION_READ: "GET", FILE_PERMISSION_WRITE: "PUT"}

# The older address, at which the HTTP door tells of itself: clients that know no other speak Azure's protocol only.
_AZURE_PATH: Final = "/api/storagebridge/v1/azure/signedUrl"

_RETRY_SECONDS: Final = 5.0
_LOGGER: Final = logging.getLogger("neptune_api.server.files")


class StorageService(StorageServiceServicer):
    """Signs URLs of files."""

    def __init__(self, *, storage: FileStorage | None, addresses: Addresses, access: Access) -> None:
        """Take where files are kept; None when this server has no place for them."""
        self._storage = storage
        self._addresses = addresses
        self._access = access

    def CreateSignedUrls(
        self, request: CreateSignedUrlsRequest, context: grpc.ServicerContext
    ) -> CreateSignedUrlsResponse:
        """Sign one URL per file, in the order asked for."""
        with Checks() as check:
            check.at_most("files", len(request.files), limits.MAX_FILES_TO_SIGN)
        with Checks() as check:
            for index, file in enumerate(request.files):
                prefix = f"files[{index}]."
                _check_path(check, f"{prefix}path", file.path)
                check.required(f"{prefix}project_identifier", file.project_identifier)
                check.known(f"{prefix}permission", file.permission, FilePermission, required=True)
        projects: dict[tuple[str, FilePermission.ValueType], str] = {}
        for index, file in enumerate(request.files):
            key = (file.project_identifier, file.permission)
            if key not in projects:
                projects[key] = self._project(*key, field=f"files[{index}].project_identifier")
        if self._storage is None:
            raise _unavailable("This server has no place for files: start it with --files.")
        metadata = context.invocation_metadata()
        for_azure = (":path", _AZURE_PATH) in (metadata or ())
        if for_azure and not self._storage.signs_for_azure:
            raise not_found(
                f"Files are not kept in Azure here, whose protocol those who ask at {_AZURE_PATH} expect of URLs: ask "
                "at /api/storagebridge/v1/signedUrl.",
                "FILE_NOT_FOUND",
            )
        base_url = self._addresses.base_url_for(metadata)
        urls: dict[int, str] = {}
        for permission, method in _METHODS.items():
            chosen = [index for index, file in enumerate(request.files) if file.permission == permission]
            files = [request.files[index] for index in chosen]
            named = [(projects[file.project_identifier, permission], file.path) for file in files]
            signed = _sign(self._storage, method, named, base_url, for_azure=for_azure)
            urls.update(zip(chosen, signed, strict=True))
        return CreateSignedUrlsResponse(
            files=[
                SignedFile(
                    path=file.path,
                    project_identifier=file.project_identifier,
                    provider=STORAGE_PROVIDER_AZURE if for_azure else self._storage.provider,
                    url=urls[index],
                )
                for index, file in enumerate(request.files)
            ]
        )

    def CompleteMultipartUpload(
        self, request: CompleteMultipartUploadRequest, context: grpc.ServicerContext
    ) -> CompleteMultipartUploadResponse:
        """Say that there is no such upload: all URLs given out are for whole files."""
        with Checks() as check:
            _check_path(check, "path", request.path)
            check.required("project_identifier", request.project_identifier)
            check.required("upload_id", request.upload_id)
            check.required("parts", request.parts)
        self._project(request.project_identifier, FILE_PERMISSION_WRITE, field="project_identifier")
        raise not_found(
            f"There is no upload {shown(request.upload_id)}: this server takes every file in one piece. Ask "
            "for a URL with StorageService.CreateSignedUrls and PUT the whole file there.",
            "FILE_NOT_FOUND",
        )

    def _project(self, identifier: str, permission: FilePermission.ValueType, *, field: str) -> str:
        """Return the UUID of a project in which the caller may do this with files."""
        writing = permission == FILE_PERMISSION_WRITE
        return self._access.project(
            identifier,
            PROJECT_ROLE_MEMBER if writing else PROJECT_ROLE_VIEWER,
            writing=writing,
            # Clients give up on this one. By NOT_FOUND they would try again for ever.
            missing=grpc.StatusCode.PERMISSION_DENIED,
            field=field,
        ).uuid


def _sign(
    storage: FileStorage, method: str, files: list[tuple[str, str]], base_url: str, *, for_azure: bool
) -> list[str]:
    try:
        return storage.sign(method, files, base_url, for_azure=for_azure) if files else []
    except StorageError as error:
        _LOGGER.error("%s", error)  # noqa: TRY400 # the sentence says it; the trace is the library's
        raise _unavailable(
            "The store of files does not answer or refuses this server, whose log says why: try again later.",
            retry_seconds=_RETRY_SECONDS,
        ) from None


def _unavailable(message: str, *, retry_seconds: float | None = None) -> StatusError:
    return StatusError(grpc.StatusCode.UNAVAILABLE, message, reason="SERVICE_UNAVAILABLE", retry_seconds=retry_seconds)


def _check_path(check: Checks, field: str, path: str) -> None:
    if check.required(field, path) and (size := len(path.encode())) > limits.MAX_FILE_PATH_BYTES:
        check.add(field, f"is {size:,} bytes long, the limit is {limits.MAX_FILE_PATH_BYTES:,} bytes of UTF-8")
