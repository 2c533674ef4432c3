"""Values of a query: what their texts mean for each type of attribute."""

from __future__ import annotations

import calendar
import math
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from neptune_api.v1.queries_pb2 import AttributeType as T

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from neptune_api.server.nql.tree import Literal

_NUMBER: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:([kmgtp])(i?)b)?", re.ASCII | re.IGNORECASE)
_PREFIXES: Final = "kmgtp"
_DATE: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s*(?:Z|([+-])([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d))?)?)?",
    re.ASCII | re.IGNORECASE,
)
_AGO: Final = re.compile(r"-(\d{1,6})([smhdwMy])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STATES: Final = {"running": "running", "active": "running", "idle": "idle", "inactive": "idle"}


class LiteralError(ValueError):
    """Say what would have been a value of the type."""


def read(type_: int, text: str, now: datetime) -> Literal:
    """Return what a text means as a value of an attribute type; see `Literal`.

    `now` is what relative datetimes count from. Raises LiteralError.
    """
    return _READERS[type_](text, now)


def _number(text: str, _now: datetime) -> float:
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise LiteralError("a finite number such as 3, -0.5, 1e-07 or 50MB")
    number, prefix, binary = found.groups()
    value = float(number)
    if prefix:
        value *= float((1024 if binary else 1000) ** (1 + _PREFIXES.index(prefix.lower())))
    if not math.isfinite(value):
        raise LiteralError("a finite number, at most about 1.8e308")
    return value


def _bool(text: str, _now: datetime) -> int:
    lower = text.strip().lower()
    if lower not in {"true", "false"}:
        raise LiteralError("true or false")
    return int(lower == "true")


def _datetime(text: str, now: datetime) -> int:
    text = text.strip()
    ago, date = _AGO.fullmatch(text), _DATE.fullmatch(text)
    try:
        if ago is not None:
            return _milliseconds(_before(now, int(ago[1]), ago[2]))
        if date is not None:
            return _milliseconds(_moment(date))
    except (ValueError, OverflowError):
        pass  # the 31st of February, or before the year 1
    raise LiteralError(
        "a datetime such as 2026-01-31, 2026-01-31T18:00:00Z or 2026-01-31T18:00:00.250+01:00, or how long ago: "
        "-30m, -2h, -5d, -1w, -3M, -1y"
    )


def _moment(date: re.Match[str]) -> datetime:
    *parts, fraction, sign, hours, minutes, seconds = date.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    moment += timedelta(microseconds=int((fraction or "").ljust(6, "0")[:6]))
    # Before there were time zones, places were seconds away from each other.
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0), seconds=int(seconds or 0))
    return moment + offset if sign == "-" else moment - offset


def _before(now: datetime, count: int, unit: str) -> datetime:
    if unit in _SECONDS:
        return now - timedelta(seconds=count * _SECONDS[unit])
    months = now.year * 12 + now.month - 1 - count * (12 if unit == "y" else 1)
    year, month = months // 12, months % 12 + 1
    if year < 1:
        raise OverflowError
    return now.replace(year=year, month=month, day=min(now.day, calendar.monthrange(year, month)[1]))


def _milliseconds(moment: datetime) -> int:
    """Return the nearest millisecond, as the store takes in datetimes."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + round(since.microseconds / 1000)


def _text(text: str, _now: datetime) -> str:
    return text


def _state(text: str, _now: datetime) -> str:
    state = _STATES.get(text.strip().lower())
    if state is None:
        raise LiteralError("running or idle")
    return state


_READERS: Final[Mapping[int, Callable[[str, datetime], Literal]]] = {
    T.ATTRIBUTE_TYPE_INT: _number,
    T.ATTRIBUTE_TYPE_FLOAT: _number,
    T.ATTRIBUTE_TYPE_FLOAT_SERIES: _number,
    T.ATTRIBUTE_TYPE_BOOL: _bool,
    T.ATTRIBUTE_TYPE_DATETIME: _datetime,
    T.ATTRIBUTE_TYPE_STRING: _text,
    T.ATTRIBUTE_TYPE_STRING_SERIES: _text,
    T.ATTRIBUTE_TYPE_STRING_SET: _text,
    T.ATTRIBUTE_TYPE_EXPERIMENT_STATE: _state,
}
