"""Files in an object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

Contents never pass through this server. The store signs the URLs, by obstore, and clients talk to it alone.
"""

from __future__ import annotations

import urllib.parse
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from neptune_api.server.files.paths import object_key
from neptune_api.server.files.signing import DEFAULT_SECONDS
from neptune_api.server.files.storage import StorageError
from neptune_api.v1.storage_service_pb2 import STORAGE_PROVIDER_AWS, STORAGE_PROVIDER_AZURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from neptune_api.v1.storage_service_pb2 import StorageProvider

# Google's store takes a plain signed PUT and answers with an ETag, just as Amazon's. What clients do for the provider
# `gcp` instead, resumable uploads, needs a signed header, which the library does not sign.
_PROVIDERS: Final[Mapping[str, StorageProvider.ValueType]] = {
    "s3": STORAGE_PROVIDER_AWS,
    "gs": STORAGE_PROVIDER_AWS,
    "az": STORAGE_PROVIDER_AZURE,
}
SCHEMES: Final = tuple(_PROVIDERS)

# The command line can be read by everybody on the machine.
_SECRET_WORDS: Final = ("secret", "key", "token", "password", "credential", "sas")
_CONNECT_SECONDS: Final = 5
_REQUEST_SECONDS: Final = 30
_RETRIES: Final = 2


class ObjectStorage:
    """Keeps files in a bucket or container of an object store.

    `url` is `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, with options of the store behind
    a question mark, such as `endpoint` and `region`. Credentials come from the environment, as the tools of each store
    have them. Raises StorageError for a URL, options or credentials that cannot be used.
    """

    door: Final = None

    def __init__(self, url: str, *, url_seconds: int = DEFAULT_SECONDS) -> None:
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ModuleNotFoundError as error:
            raise StorageError(
                'Files in an object store need the package obstore, which is not installed: pip install "neptune-api'
                '[objects]"'
            ) from error
        self._obstore: Any = obstore
        self._lifetime = timedelta(seconds=url_seconds)
        parts = urllib.parse.urlsplit(url)
        self._name: Final = f"{parts.scheme}://{parts.netloc}{parts.path}"
        if parts.scheme not in _PROVIDERS or not parts.netloc or "@" in parts.netloc:
            raise StorageError(
                f"{self._name} is no address for files: say s3://bucket/prefix, gs://bucket/prefix or "
                "az://container/prefix."
            )
        self.provider: Final = _PROVIDERS[parts.scheme]
        self.signs_for_azure: Final = self.provider == STORAGE_PROVIDER_AZURE
        # Any: which options there are depends on the scheme, which the types of the library cannot know.
        open_store: Any = obstore.store.from_url
        try:
            self._store = open_store(
                self._name,
                config=_options(parts.query),
                client_options=_client_options(parts.query),
                retry_config={"max_retries": _RETRIES},
            )
        except obstore.exceptions.BaseError as error:
            raise StorageError(f"The object store {self._name} cannot be used: {_reason(error)}.") from error
        # What has no credentials cannot sign, and whoever starts the server should be the one to read of it.
        self.sign("GET", [("probe", "probe")])

    def sign(
        self,
        method: str,
        files: Sequence[tuple[str, str]],
        base_url: str = "",  # noqa: ARG002 # URLs lead to the store
        *,
        for_azure: bool = False,  # noqa: ARG002 # the store has one kind of URLs
    ) -> list[str]:
        """Return for each (project, path) a URL that permits GET or PUT. Raises StorageError."""
        keys = [object_key(project, path) for project, path in files]
        try:
            return list(self._obstore.sign(self._store, method, keys, self._lifetime))
        except self._obstore.exceptions.BaseError as error:
            raise StorageError(f"The object store {self._name} cannot sign URLs: {_reason(error)}.") from error

    def delete_project(self, project: str) -> None:
        """Delete the files of a project. Raises StorageError."""
        try:
            for found in self._obstore.list(self._store, project):
                self._obstore.delete(self._store, [item["path"] for item in found])
        except self._obstore.exceptions.BaseError as error:
            raise StorageError(
                f"The files of a deleted project are still in the object store {self._name} under {project}: "
                f"{_reason(error)}."
            ) from error

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def _options(query: str) -> dict[str, str]:
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for name in options:
        if any(word in name.lower() for word in _SECRET_WORDS):
            raise StorageError(
                f"The option {name} does not belong on a command line, where others can read it: set it in the "
                "environment, as AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS or AZURE_STORAGE_ACCOUNT_KEY."
            )
    return options


def _client_options(query: str) -> dict[str, Any]:
    endpoints = (value for name, value in urllib.parse.parse_qsl(query) if name in {"endpoint", "base_url"})
    return {
        # The scheme of the endpoint says it already.
        "allow_http": any(endpoint.lower().startswith("http://") for endpoint in endpoints),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
    }


def _reason(error: Exception) -> str:
    """Return the first line of an error, without the library's own view of itself below it."""
    return str(error).partition("\n")[0].rstrip(".")
