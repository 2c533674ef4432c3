"""What the generated facade stands on: the channel and the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neptune_api.channels import channel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import TypeAlias, TypeVar

    import grpc
    from google.protobuf.message import Message
    from typing_extensions import Self

    from neptune_api.channels import Transport
    from neptune_api.credentials import ApiToken
    from neptune_api.options import ChannelOptions

    RequestT = TypeVar("RequestT", bound=Message)
    ResponseT = TypeVar("ResponseT", bound=Message)
    Metadata: TypeAlias = Sequence[tuple[str, "str | bytes"]]

__all__ = ["ClientBase"]


class ClientBase:
    """Owns a channel and turns fields into requests.

    The client opens its channel when it is made, connects at the first call, and closes it with close() or at the end
    of a `with` block. Threads may share a client. Arguments and errors are those of neptune_api.channel().
    """

    def __init__(
        self,
        api_token: str | ApiToken | None = None,
        *,
        target: str | None = None,
        options: ChannelOptions | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._channel = channel(target, api_token=api_token, options=options, transport=transport)

    @property
    def channel(self) -> grpc.Channel:
        """The channel underneath, for the generated stubs of streaming RPCs."""
        return self._channel

    def close(self) -> None:
        """Close the channel; calls under way are cancelled, later ones raise ValueError."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        call: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request_type: type[RequestT],
        request: RequestT | None,
        fields: Mapping[str, object],
        timeout: float | None,
        metadata: Metadata | None,
    ) -> ResponseT:
        """Send the request, or the one made of the fields that are not None, and return the response.

        Raises TypeError when both are given or a value has not the type of its field, ValueError when it is out of the
        field's range, and what the channel raises.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if request is None:
            request = _build(request_type, given)
        elif given:
            raise TypeError(
                f"pass either a {request_type.__name__} or its fields, not both: got a request and {', '.join(given)}"
            )
        elif not isinstance(request, request_type):
            raise TypeError(f"the request must be a {request_type.__name__}, not a {type(request).__name__}")
        return call(request, timeout=timeout, metadata=None if metadata is None else tuple(metadata))


def _build(request_type: type[RequestT], fields: Mapping[str, object]) -> RequestT:
    """Make a request of its fields; an error names the field, which protobuf's own does not."""
    try:
        return request_type(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                request_type(**{name: value})
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{request_type.__name__}.{name} does not take this {type(value).__name__}: {error}"
                ) from error
        raise
