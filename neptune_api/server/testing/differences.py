"""How two messages differ, field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from google.protobuf.message import Message

_ABSENT: Final = object()
_LONGEST: Final = 100


def canonical(message: Message, ignored: Collection[str] = ()) -> bytes:
    """Return what equal messages have in common, but for fields of the ignored names; NaN is equal to itself."""
    if ignored:
        copy = type(message)()
        copy.CopyFrom(message)
        _clear(copy, ignored)
        message = copy
    return message.SerializeToString(deterministic=True)


def differences(
    recorded: Sequence[Message], came: Sequence[Message], ignored: Collection[str] = ()
) -> list[tuple[str, str, str]]:
    """Return (field, what was recorded, what came) for each field of the requests of two calls that differs."""
    found = []
    for position in range(max(len(recorded), len(came))):
        place = f"[{position}]" if max(len(recorded), len(came)) > 1 else ""
        first = recorded[position] if position < len(recorded) else _ABSENT
        second = came[position] if position < len(came) else _ABSENT
        found += [
            (place or "the request", _shown(a), _shown(b)) for place, a, b in _compare(place, first, second, ignored)
        ]
    return found


def _compare(place: str, first: Any, second: Any, ignored: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
    if hasattr(first, "ListFields") and hasattr(second, "ListFields"):
        ours = {field.name: value for field, value in first.ListFields()}
        theirs = {field.name: value for field, value in second.ListFields()}
        for field in first.DESCRIPTOR.fields:
            if field.name not in ignored:
                yield from _compare(
                    f"{place}.{field.name}".lstrip("."),
                    ours.get(field.name, _ABSENT),
                    theirs.get(field.name, _ABSENT),
                    ignored,
                )
    elif hasattr(first, "items") and hasattr(second, "items"):
        for key in sorted({*first, *second}):
            yield from _compare(
                f"{place}[{key!r}]",
                first[key] if key in first else _ABSENT,  # noqa: SIM401 # get() of a map of messages makes one
                second[key] if key in second else _ABSENT,  # noqa: SIM401 # as above
                ignored,
            )
    elif _is_list(first) and _is_list(second):
        for position in range(max(len(first), len(second))):
            yield from _compare(
                f"{place}[{position}]",
                first[position] if position < len(first) else _ABSENT,
                second[position] if position < len(second) else _ABSENT,
                ignored,
            )
    elif first is not _ABSENT or second is not _ABSENT:
        same = first == second or repr(first) == repr(second)  # NaN
        if not same:
            yield place, first, second


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes) and not hasattr(value, "items")


def _clear(message: Any, ignored: Collection[str]) -> None:
    for field, value in message.ListFields():
        if field.name in ignored:
            message.ClearField(field.name)
        elif field.message_type is None:
            continue
        elif hasattr(value, "ListFields"):
            _clear(value, ignored)
        else:
            for each in value.values() if hasattr(value, "values") else value:
                if hasattr(each, "ListFields"):
                    _clear(each, ignored)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = " ".join((str(value) if hasattr(value, "ListFields") else repr(value)).split("\n")).strip()
    text = text or "an empty message"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
