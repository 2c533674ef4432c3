"""The API page: a description of the API from which people call it, in their browser, with nothing from outside.

The files lie in `static`, the OpenAPI document among them, which is generated from the protos; the viewer, swagger-ui,
comes from a package of its own.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from neptune_api.server.http.exchange import Response

DOCS_PATH: Final = "/docs"
OPENAPI_PATH: Final = "/openapi.json"
DESCRIPTORS_PATH: Final = "/descriptors.binpb"

_FILES: Final = {
    DOCS_PATH: ("docs.html", "text/html; charset=utf-8"),
    f"{DOCS_PATH}/start.js": ("start.js", "text/javascript; charset=utf-8"),
    OPENAPI_PATH: ("openapi.json", "application/json"),
    DESCRIPTORS_PATH: ("descriptors.binpb", "application/octet-stream"),
}
_VIEWER: Final = {
    f"{DOCS_PATH}/swagger-ui.css": ("swagger-ui.css", "text/css; charset=utf-8"),
    f"{DOCS_PATH}/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
}

# The page holds a token: nothing but this server's own scripts may run in it, and it talks to nobody else.
_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


class Pages:
    """The files of the API page."""

    paths: Final = (*_FILES, *_VIEWER)

    def get(self, path: str) -> Response:
        """Return the file at one of `paths`; blocks when it is asked for the first time."""
        content, content_type = _page(path)
        return Response(200, content, content_type, _HEADERS)


@cache
def _page(path: str) -> tuple[bytes, str]:
    if path in _FILES:
        name, content_type = _FILES[path]
        return (resources.files("neptune_api.server.http") / "static" / name).read_bytes(), content_type
    from swagger_ui_bundle import swagger_ui_path

    name, content_type = _VIEWER[path]
    return (swagger_ui_path / name).read_bytes(), content_type
