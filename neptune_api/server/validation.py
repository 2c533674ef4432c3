"""Checks of request fields: each says what is wrong, what the limit is and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import grpc

from neptune_api.server import limits
from neptune_api.server.errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from google.protobuf.internal.enum_type_wrapper import (
        _EnumTypeWrapper,  # the public class is not generic, so it does not fit generated enums
    )
    from typing_extensions import Self

BAD_REQUEST: Final = "BAD_REQUEST"

# Errors travel in trailing metadata, which gRPC peers refuse above 8 KB: neither the number of violations nor the text
# that a request can put into one may grow with the request.
_MAX_VIOLATIONS: Final = 10
_MAX_SHOWN: Final = 80

_NAME: Final = re.compile(r"[\w.-]+")
_KEY: Final = re.compile(r"[A-Z0-9]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def shown(text: str) -> str:
    """Return a text of a request as an error may repeat it: on one line, without control characters, not long."""
    visible = "".join(character if character.isprintable() else "?" for character in text[: _MAX_SHOWN + 1])
    return visible if len(visible) <= _MAX_SHOWN else f"{visible[: _MAX_SHOWN - 3]}..."


def is_name(text: str, limit: int) -> bool:
    """Tell whether a text can be the name of a user, workspace or project of at most `limit` bytes."""
    return len(text) <= limit and _NAME.fullmatch(text) is not None and len(text.encode()) <= limit


def as_uuid(text: str) -> str | None:
    """Return the text as the store writes UUIDs, in lower case; None when it is not the text of a UUID."""
    return text.lower() if _UUID.fullmatch(text) else None


class Checks:
    """Collect what is wrong with a request; leaving the block raises one INVALID_ARGUMENT that names every field.

    The status carries the reason of the first violation.
    """

    __slots__ = ("_left_out", "_reason", "_violations")

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []
        self._reason = BAD_REQUEST
        self._left_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._violations:
            sentence = "; ".join(f"{field}: {description}" for field, description in self._violations)
            if self._left_out:
                sentence += f"; and {self._left_out:,} more"
            raise StatusError(
                grpc.StatusCode.INVALID_ARGUMENT, sentence, reason=self._reason, violations=self._violations
            )

    def add(self, field: str, description: str, *, reason: str = BAD_REQUEST) -> None:
        """Note that a field is wrong."""
        if not self._violations:
            self._reason = reason
        if len(self._violations) < _MAX_VIOLATIONS:
            self._violations.append((field, description))
        else:
            self._left_out += 1

    def required(self, field: str, present: object, *, reason: str = BAD_REQUEST) -> bool:
        """Check that something is there, and tell whether it is."""
        if not present:
            self.add(field, "is required", reason=reason)
        return bool(present)

    def text(self, field: str, value: str, limit: int, *, required: bool = False) -> None:
        """Check free text: at most `limit` bytes of UTF-8, none of them zero."""
        if required and not self.required(field, value):
            return
        size = _size(value)
        if size > limit:
            self.add(field, f"is {size:,} bytes long, the limit is {limit:,} bytes of UTF-8")
        elif "\0" in value:
            # PostgreSQL cannot store it.
            self.add(field, "contains the character U+0000; leave it out")

    def name(self, field: str, value: str, limit: int, *, reason: str = BAD_REQUEST) -> None:
        """Check the name of a user, workspace or project: 1 to `limit` bytes of word characters, `-` or `.`."""
        if not self.required(field, value, reason=reason):
            return
        size = _size(value)
        if size > limit:
            self.add(field, f"is {size:,} bytes long, the limit is {limit:,} bytes of UTF-8", reason=reason)
        elif not _NAME.fullmatch(value):
            self.add(
                field,
                f'is "{shown(value)}"; a name has only letters, digits and the characters _ - .',
                reason=reason,
            )

    def project_key(self, field: str, value: str) -> None:
        """Check a project key: 1 to 10 upper-case letters or digits, at least one of them a letter."""
        limit = limits.MAX_PROJECT_KEY_LENGTH
        if len(value) > limit or not _KEY.fullmatch(value) or value.isdecimal():
            self.add(
                field,
                f'is "{shown(value)}"; a key has 1 to {limit} of the characters A-Z and 0-9, at least one of them a '
                "letter. Leave it out to have one made from the name",
                reason="PROJECT_KEY_INVALID",
            )

    def known(self, field: str, value: int, enum: _EnumTypeWrapper[Any], *, required: bool = False) -> None:
        """Check that a number is a value of an enum; zero, "unspecified", passes unless `required`."""
        if value == 0:
            if required:
                self.add(field, f"is required; say one of {_names(enum)}")
        elif value not in enum.values():
            self.add(field, f"is {value}, which is no {enum.DESCRIPTOR.name}; say one of {_names(enum)}")

    def at_most(self, field: str, count: int, limit: int) -> None:
        """Check the number of elements of a repeated field."""
        if count > limit:
            self.add(field, f"has {count:,} elements, the limit is {limit:,}; split the request")

    def page(self, *, offset: int | None, limit: int | None) -> None:
        """Check where a page of a listing starts and how many entries it has; None passes."""
        if offset is not None and offset < 0:
            self.add("offset", f"is {offset}; it must not be negative", reason="INVALID_OFFSET")
        if limit is not None and not 0 <= limit <= limits.MAX_PAGE_SIZE:
            self.add("limit", f"is {limit}; it must be from 0 to {limits.MAX_PAGE_SIZE:,}")


def _size(text: str) -> int:
    # Lone surrogates, which JSON can spell, have no encoding.
    return len(text.encode(errors="replace"))


def _names(enum: _EnumTypeWrapper[Any]) -> str:
    return ", ".join(name for name, number in enum.items() if number)


def one_of(choices: Collection[str]) -> str:
    """Return the end of a sentence that lists what may be said."""
    return f"say one of {', '.join(choices)}"
