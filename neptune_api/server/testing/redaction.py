"""Messages without their secrets: for what tests print and what recordings keep."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from neptune_api.credentials import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound="Message")

REDACTED: Final = "<redacted>"
_TOKENS: Final = frozenset({"api_token", "access_token", "refresh_token"})
# Who has a signed URL has access; what makes it so stands behind the question mark.
_SIGNED: Final = frozenset({"neptune_api.v1.SignedFile.url", "neptune_api.v1.MultipartUpload.part_urls"})
_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-neptune-api-token"})


def redacted(message: MessageT) -> MessageT:
    """Return a message, or a copy of it with its tokens and the signatures of its URLs replaced."""
    if not _holds_secrets(message.DESCRIPTOR):
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    _redact(copy)
    return copy


def redacted_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """Return metadata with tokens replaced."""
    return tuple(
        (key, REDACTED if key in _HEADERS else redact(value) if isinstance(value, str) else value)
        for key, value in ((str(pair[0]), pair[1]) for pair in metadata)
    )


@cache
def _holds_secrets(descriptor: Descriptor) -> bool:
    return _search(descriptor, set())


def _search(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(
        field.name in _TOKENS
        or field.full_name in _SIGNED
        or (field.message_type is not None and _search(field.message_type, seen))
        for field in descriptor.fields
    )


def _redact(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in _TOKENS:
            setattr(message, field.name, REDACTED)
        elif field.full_name in _SIGNED:
            if isinstance(value, str):
                setattr(message, field.name, _unsigned(value))
            else:
                value[:] = [_unsigned(each) for each in value]
        elif field.message_type is not None:
            for each in _messages(value):
                _redact(each)


def _messages(value: Any) -> Iterable[Any]:
    if hasattr(value, "ListFields"):
        return (value,)
    values = value.values() if hasattr(value, "values") else value
    return [each for each in values if hasattr(each, "ListFields")]


def _unsigned(url: str) -> str:
    path, mark, _ = url.partition("?")
    return f"{path}{mark}{REDACTED}" if mark else path
