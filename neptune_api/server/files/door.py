"""The door of the file folder: HTTP by signed URLs, as an ASGI application for the HTTP door to mount.

It speaks the part of Amazon's protocol that clients use: PUT of a whole file, answered with its ETag; GET, with one
range; HEAD. And of Azure's, which is hardly different. Contents pass through in pieces, so a file of any size takes the
memory of a few of them.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import json
import logging
import re
import urllib.parse
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

from neptune_api._threads import DaemonPool
from neptune_api.server import limits
from neptune_api.server.files.folder import DamagedFileError
from neptune_api.server.files.paths import FILES_PREFIX, unquote
from neptune_api.server.files.ranges import UnsatisfiableError, select
from neptune_api.server.files.signing import ExpiredError, ForgedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from neptune_api.server.files.folder import Folder, StoredFile
    from neptune_api.server.files.signing import Signer

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_PIECE_BYTES: Final = 1024 * 1024
_IDLE_SECONDS: Final = 60.0
"""How long a client may send or take nothing in the middle of a file."""
_THREADS: Final = 8
_DEFAULT_MIME_TYPE: Final = "application/octet-stream"
_PROJECT: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READING: Final = frozenset({"GET", "HEAD"})
_METHODS: Final = "GET, HEAD, PUT"
# Where clients of Azure say what they would say in Range.
_AZURE_RANGE: Final = "x-ms-range"
# A PUT that honours the condition or writes the part is what such a header asks for. Neither is done, so neither is
# taken for the plain PUT that it is not.
_UNSUPPORTED_ON_PUT: Final = ("content-range", "content-encoding", "if-match", "if-none-match")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LOGGER: Final = logging.getLogger("neptune_api.server.files")
_Result = TypeVar("_Result")


class _GoneError(Exception):
    """The client went away."""


class _Refusal(Exception):  # noqa: N818 # an answer, not a failure
    """An answer that says no."""

    def __init__(self, status: HTTPStatus, reason: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = headers


class FileDoor:
    """An ASGI application that reads and writes the files of a folder for those who hold a signed URL.

    `knows` tells whether there is a project with a UUID; it may block.
    """

    def __init__(
        self,
        folder: Folder,
        signer: Signer,
        knows: Callable[[str], bool],
        *,
        idle_seconds: float = _IDLE_SECONDS,
    ) -> None:
        self._folder = folder
        self._signer = signer
        self._knows = knows
        self._idle_seconds = idle_seconds
        self._threads = DaemonPool(_THREADS, "files")

    def close(self) -> None:
        """End the threads of the door."""
        self._threads.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, whose path begins with FILES_PREFIX."""
        answer = _Answer(send, self._idle_seconds, with_body=scope["method"] != "HEAD")
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            project, path = self._admit(scope)
            if scope["method"] == "PUT":
                await self._put(project, path, headers, receive, answer)
            else:
                await self._get(project, path, headers, receive, answer)
        except _Refusal as refusal:
            await answer.refuse(refusal)
        except (_GoneError, ConnectionError, asyncio.TimeoutError):
            await answer.refuse(_interrupted())
        except Exception as error:  # noqa: BLE001 # becomes an incident in the log
            await answer.refuse(_failure(error))

    def _admit(self, scope: Scope) -> tuple[str, str]:
        """Return the project and path of a request that its URL permits. Raises _Refusal."""
        method: str = scope["method"]
        if method not in _READING and method != "PUT":
            raise _Refusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "BAD_REQUEST",
                f"Files are read with GET or HEAD and written with PUT, not with {method[:16]!a}.",
                ("allow", _METHODS),
            )
        try:
            address = urllib.parse.unquote(scope["raw_path"].decode("ascii"), errors="strict")
        except UnicodeDecodeError:
            raise _bad_request("The path of the URL is not UTF-8 under its percent-encoding.") from None
        project, slash, quoted = address.removeprefix(FILES_PREFIX).partition("/")
        if not address.startswith(FILES_PREFIX) or not slash or not _PROJECT.fullmatch(project):
            raise _not_found()
        path = unquote(quoted)
        try:
            self._signer.check(
                "GET" if method in _READING else method, project, path, scope["query_string"].decode("latin-1")
            )
        except ExpiredError as error:
            # Clients take these as the word for it and ask for a new URL.
            raise _Refusal(
                HTTPStatus.UNAUTHORIZED if error.is_azure else HTTPStatus.BAD_REQUEST,
                "AUTHORIZATION_TOKEN_EXPIRED",
                "The URL has expired: ask for a new one with StorageService.CreateSignedUrls.",
            ) from None
        except ForgedError:
            raise _Refusal(
                HTTPStatus.FORBIDDEN,
                "ACCESS_DENIED",
                "The URL is not signed for this: use it as StorageService.CreateSignedUrls gave it, to GET if it was "
                "asked for reading, to PUT if for writing.",
            ) from None
        return project, path

    async def _get(
        self, project: str, path: str, headers: Mapping[str, str], receive: Receive, answer: _Answer
    ) -> None:
        file = await self._run(self._folder.open, project, path)
        if file is None:
            raise _not_found()
        departure = asyncio.ensure_future(_departure(receive))
        try:
            await self._send(file, headers, answer, departure)
        finally:
            departure.cancel()
            await self._run(file.close)

    async def _send(
        self, file: StoredFile, headers: Mapping[str, str], answer: _Answer, departure: asyncio.Future[None]
    ) -> None:
        size, etag = file.note.size, f'"{file.note.etag}"'
        known = [
            ("etag", etag),
            ("last-modified", email.utils.formatdate(file.modified, usegmt=True)),
            ("accept-ranges", "bytes"),
            ("cache-control", "private, no-cache"),
        ]
        if _matches(headers.get("if-none-match"), etag):
            await answer.start(HTTPStatus.NOT_MODIFIED, known)
            await answer.finish()
            return
        try:
            # A client that has a part of another version gets all of this one.
            fresh = headers.get("if-range", etag) == etag
            selected = select(headers.get("range", headers.get(_AZURE_RANGE)), size) if fresh else None
        except UnsatisfiableError:
            raise _Refusal(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                "BAD_REQUEST",
                f"The file has {size:,} bytes, and the range asked for lies outside of them.",
                ("content-range", f"bytes */{size}"),
            ) from None
        wanted = range(size) if selected is None else selected
        known += [
            ("content-type", file.note.mime_type or _DEFAULT_MIME_TYPE),
            ("content-length", str(len(wanted))),
            # What users stored is shown by browsers, if at all, as if it came from nowhere: no script in it can use
            # the API in the name of who looks at it.
            ("content-security-policy", "default-src 'none'; sandbox"),
            ("x-content-type-options", "nosniff"),
        ]
        if selected is not None:
            known.append(("content-range", f"bytes {wanted.start}-{wanted.stop - 1}/{size}"))
        await answer.start(HTTPStatus.OK if selected is None else HTTPStatus.PARTIAL_CONTENT, known)
        if answer.with_body:
            for start in range(wanted.start, wanted.stop, _PIECE_BYTES):
                if departure.done():
                    raise _GoneError
                await answer.piece(await self._run(file.read, start, min(_PIECE_BYTES, wanted.stop - start)))
        await answer.finish()

    async def _put(
        self, project: str, path: str, headers: Mapping[str, str], receive: Receive, answer: _Answer
    ) -> None:
        for name in _UNSUPPORTED_ON_PUT:
            if name in headers:
                raise _bad_request(f"A file is put as a whole and unconditionally: leave the header {name} out.")
        mime_type = headers.get("content-type", "")
        if len(mime_type) > limits.MAX_MIME_TYPE_BYTES:
            raise _bad_request(
                f"The Content-Type is {len(mime_type):,} bytes long, the limit is {limits.MAX_MIME_TYPE_BYTES}."
            )
        if not await self._run(self._knows, project):
            raise _not_found()
        upload = await self._run(self._folder.begin, project, path, mime_type)
        try:
            piece = bytearray()
            more = True
            while more:
                message = await asyncio.wait_for(receive(), self._idle_seconds)
                if message["type"] == "http.disconnect":
                    raise _GoneError
                piece += message.get("body", b"")
                more = message.get("more_body", False)
                if len(piece) >= _PIECE_BYTES or (piece and not more):
                    await self._run(upload.write, piece)
                    piece = bytearray()
            note = await self._run(upload.commit)
        finally:
            await self._run(upload.discard)
        await answer.start(HTTPStatus.OK, [("etag", f'"{note.etag}"'), ("content-length", "0")])
        await answer.finish()

    async def _run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call what blocks in a thread of the door's own, so that slow disks hold up nothing but files.

        Who is cancelled waits for the thread all the same: nothing is closed while it is in use.
        """
        call = self._threads.run(asyncio.get_running_loop(), function, *arguments)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise


class _Answer:
    """The answer to one request, sent piece by piece to a client that has to keep taking them."""

    def __init__(self, send: Send, idle_seconds: float, *, with_body: bool) -> None:
        self.with_body: Final = with_body
        self._send = send
        self._idle_seconds = idle_seconds
        self._started = False

    async def start(self, status: HTTPStatus, headers: list[tuple[str, str]]) -> None:
        self._started = True
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self._pass({"type": "http.response.start", "status": int(status), "headers": encoded})

    async def piece(self, content: bytes) -> None:
        await self._pass({"type": "http.response.body", "body": content, "more_body": True})

    async def finish(self, content: bytes = b"") -> None:
        await self._pass({"type": "http.response.body", "body": content})

    async def refuse(self, refusal: _Refusal) -> None:
        if self._started:
            # Too late for a status. A body that ends too soon tells the client that something is wrong.
            return
        body = json.dumps(
            {"code": int(refusal.status), "message": refusal.message, "errorType": refusal.reason}
        ).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *refusal.headers,
        ]
        await self.start(refusal.status, headers)
        await self.finish(body if self.with_body else b"")

    async def _pass(self, message: Message) -> None:
        await asyncio.wait_for(self._send(message), self._idle_seconds)


async def _departure(receive: Receive) -> None:
    """Return when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _matches(header: str | None, etag: str) -> bool:
    """Tell whether an If-None-Match header names the ETag, or any."""
    names = {name.strip().removeprefix("W/") for name in (header or "").split(",")}
    return etag in names or "*" in names


def _bad_request(message: str) -> _Refusal:
    return _Refusal(HTTPStatus.BAD_REQUEST, "BAD_REQUEST", message)


def _not_found() -> _Refusal:
    return _Refusal(
        HTTPStatus.NOT_FOUND, "FILE_NOT_FOUND", "There is no such file: nothing was uploaded there, or it was deleted."
    )


def _interrupted() -> _Refusal:
    return _Refusal(
        HTTPStatus.REQUEST_TIMEOUT,
        "REQUEST_TIMEOUT",
        "The upload stopped before its end, and nothing was stored: send the file again.",
        ("connection", "close"),  # what is left of the request is no use
    )


def _failure(error: Exception) -> _Refusal:
    if isinstance(error, OSError) and error.errno in _FULL:
        _LOGGER.error("no room left for files: %s", error.strerror)
        return _Refusal(
            HTTPStatus.INSUFFICIENT_STORAGE,
            "SERVICE_UNAVAILABLE",
            "The server has no room left for files, and nothing was stored: make room, then send the file again.",
        )
    incident = uuid.uuid4().hex
    known = isinstance(error, (OSError, DamagedFileError))
    _LOGGER.error("incident %s: a file could not be read or written: %s", incident, error, exc_info=not known)
    return _Refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "INTERNAL_SERVER_ERROR",
        f"The server failed with the file; its log says why under incident {incident}.",
    )
