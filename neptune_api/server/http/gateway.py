"""The ASGI application of the HTTP door: which request goes where.

RPCs are found by the HTTP rules of their protos. The rest is what is no RPC: the OpenID endpoints, the health of the
server, the API page, and file contents, which have an application of their own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api.credentials import redact
from neptune_api.http.rules import Router, rules_of
from neptune_api.server.errors import StatusError
from neptune_api.server.handlers import incident
from neptune_api.server.http import openid
from neptune_api.server.http.calls import Calls, stopping
from neptune_api.server.http.dialect import error_response
from neptune_api.server.http.exchange import Answer, ClientGoneError, HttpError, Request, Response, json_response
from neptune_api.server.http.pages import Pages
from neptune_api.server.identity import DISCOVERY_PATH, TOKEN_PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from neptune_api.server.handlers import Handler
    from neptune_api.server.http.exchange import App, Receive, Scope, Send
    from neptune_api.server.identity import Addresses
    from neptune_api.server.query_threads import QueryThreads

    Special = Callable[[Request], Awaitable[Response]]
    Health = Callable[[], Mapping[str, bool]]

_REFRESH: Final = "/neptune_api.v1.AuthService/RefreshToken"


class Gateway:
    """Answers HTTP requests by guarded RPCs.

    `queries` are the threads that answer queries; `clock` gives the time in seconds since 1970; `health` tells of each
    part of the server whether it works, and may block; `files` answers below `files_prefix`.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        addresses: Addresses,
        queries: QueryThreads,
        *,
        clock: Callable[[], float],
        health: Health,
        files: App | None = None,
        files_prefix: str = "",
    ) -> None:
        self._handlers = handlers
        self._addresses = addresses
        self._clock = clock
        self._health = health
        self._files = files
        self._files_prefix = files_prefix
        self._router = Router(rule for handler in handlers.values() for rule in rules_of(handler.method))
        self._calls = Calls(queries)
        self._pages = Pages()
        self._special: Final[dict[str, dict[str, Special]]] = {
            "/healthz": {"GET": self._report_health},
            "/api/backend/healthz": {"GET": self._report_health},
            "/api/backend/startup": {"GET": self._report_health},
            "/api/backend/status": {"GET": self._report_status},
            "/api/leaderboard/": {"HEAD": self._say_nothing},
            DISCOVERY_PATH: {"GET": self._discover},
            TOKEN_PATH: {"POST": self._refresh},
            **{path: {"GET": self._show_page} for path in self._pages.paths},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._files is not None and scope["raw_path"].startswith(self._files_prefix.encode()):
            await self._files(scope, receive, send)
            return
        answer = Answer(send)
        path = scope["raw_path"].decode("ascii", "replace")
        request: Request | None = None
        try:
            request = Request(scope, receive)
            await self._answer(request, answer)
        except ClientGoneError:
            return
        except StatusError as error:
            await self._fail(path, request, answer, error)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            await self._fail(path, None, answer, stopping())
        except Exception as error:  # noqa: BLE001 # becomes an incident in the log
            where = "the HTTP door" if request is None else f"{request.verb} {_shown(request.path)}"
            await self._fail(path, request, answer, incident(where, error))

    @property
    def stopping(self) -> bool:
        """True makes UNAVAILABLE of requests that are cancelled."""
        return self._calls.stopping

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._calls.stopping = value

    def close(self, timeout: float) -> bool:
        """End the threads of the gateway; False if a servicer still works after `timeout` seconds."""
        return self._calls.close(timeout)

    async def _fail(self, path: str, request: Request | None, answer: Answer, error: StatusError) -> None:
        if answer.begun:
            # Too late for a status. A body without its end is how the client sees that something is wrong.
            raise ConnectionAbortedError("the response broke off")
        try:
            close = request is None or not await request.discard()
            accept = None if request is None else request.headers.get("accept")
            await answer.respond(error_response(path, error, accept), close=close)
        except (ClientGoneError, StatusError):
            return

    async def _answer(self, request: Request, answer: Answer) -> None:
        special = self._special.get(request.path)
        if special is not None:
            act = special.get(request.verb) or special.get("GET" if request.verb == "HEAD" else request.verb)
            if act is None:
                raise _wrong_verb(request, special)
            response = await act(request)
            await answer.respond(response, close=not await request.discard())
            return
        try:
            match = self._router.match("GET" if request.verb == "HEAD" else request.verb, request.path)
        except UnicodeDecodeError:
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "The path of the URL is not in UTF-8.") from None
        if match is None:
            verbs = self._router.verbs(request.path)
            if verbs:
                raise _wrong_verb(request, verbs)
            raise HttpError(
                404,
                # As an unknown method over gRPC: clients tell an older server by it.
                grpc.StatusCode.UNIMPLEMENTED,
                f"The server has nothing at {_shown(request.path)}: /docs lists what it has.",
            )
        await self._calls.answer(self._handlers[match.rule.path], match, request, answer)

    # What is no RPC

    async def _report_health(self, _: Request) -> Response:
        health = {} if self.stopping else await self._calls.run(self._health)
        well = bool(health) and all(health.values())
        components = [{"name": name, "status": "OK" if works else "FAILED"} for name, works in health.items()]
        return json_response(200 if well else 503, components, {} if well else {"retry-after": "1"})

    async def _report_status(self, _: Request) -> Response:
        return json_response(200, {})

    async def _say_nothing(self, _: Request) -> Response:
        return Response(200, b"")

    async def _discover(self, request: Request) -> Response:
        return json_response(
            200, openid.discovery(self._addresses.base_url(request.scheme, request.headers.get("host")))
        )

    async def _refresh(self, request: Request) -> Response:
        return await openid.token(self._handlers[_REFRESH], request, self._calls, self._clock)

    async def _show_page(self, request: Request) -> Response:
        return await self._calls.run(self._pages.get, request.path)


def _wrong_verb(request: Request, verbs: Any) -> HttpError:
    allowed = ", ".join(sorted({*verbs, *(["HEAD"] if "GET" in verbs else [])}))
    return HttpError(
        405,
        grpc.StatusCode.UNIMPLEMENTED,
        f"{_shown(request.path)} answers {allowed}, not {request.verb}.",
        headers={"allow": allowed},
    )


def _shown(path: str) -> str:
    clean = redact(path)
    return clean if len(clean) <= 200 else f"{clean[:200]}..."
