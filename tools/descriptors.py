"""Write the descriptor set of the API: the protos and all they import, in one file, for tools and other languages.

    python tools/descriptors.py DESCRIPTORS OUT

Run by build_protos.py in the compiler environment; DESCRIPTORS is a FileDescriptorSet with comments, OUT the folder
for the result. Comments of the API stay, because code generators copy them. Places in the source and the comments of
google's files go, which halves the size.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

PACKAGE = "neptune_api.v1"
TARGET = "neptune_api/server/http/static/descriptors.binpb"


def published(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """Return the files with the API's comments and without other information about the source."""
    found = descriptor_pb2.FileDescriptorSet()
    found.CopyFrom(files)
    for file in found.file:
        locations = list(file.source_code_info.location) if file.package == PACKAGE else []
        file.ClearField("source_code_info")
        for location in locations:
            if location.leading_comments or location.trailing_comments:
                location.ClearField("leading_detached_comments")
                file.source_code_info.location.append(location)
    return found


def main() -> int:
    """Write the descriptor set."""
    descriptors, out = Path(sys.argv[1]), Path(sys.argv[2])
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    target = out / TARGET
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(published(files).SerializeToString(deterministic=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
