"""Moments: how somebody says when, and what a stream that keeps only so much can say of it.

A moment is a position of the stream, a time, `now`, or how long ago: `15m`, `1h`, `7d`. A time includes
whatever the stream took within its millisecond.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from pmoves_mesh.core.names import shown
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import InvalidFieldError, MeshError

AHEAD_MAX_MS: Final = 5000
"""How far a reader's clock may be ahead of this host's: what it calls a moment ago is then now."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT_MAX: Final = 40
_DIGITS_MAX: Final = 18
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")


class BeforeHistoryError(MeshError):
    """Somebody asked for a moment of which the stream no longer tells everything.

    Attributes:
        from_position: the first position of which it does.
        from_time: when the stream took that, ISO 8601, UTC.
    """

    def __init__(self, field: str, from_position: int, from_time: str) -> None:
        self.field = field
        self.from_position = from_position
        self.from_time = from_time
        super().__init__(
            f"{field}: the past is known from position {from_position} on, of {from_time or 'no time yet'}"
        )


class Moment(Struct, frozen=True, kw_only=True):
    """A position, or a time; neither is the stream's last event.

    Attributes:
        field: the parameter that named it, for whoever got it wrong.
        position: of the stream.
        time_ms: unix milliseconds.
    """

    field: str
    position: int | None = None
    time_ms: int | None = None

    def includes(self, position: int, time_ms: int) -> bool:
        """Returns whether an event had happened by this moment."""
        if self.position is not None:
            return position <= self.position
        return self.time_ms is None or time_ms <= self.time_ms


class Kept(Struct, frozen=True, kw_only=True):
    """What a stream still holds.

    Attributes:
        first: position of the oldest event; `last + 1` when there is none.
        last: position of the newest one.
        first_ms: when the stream took the oldest, unix milliseconds.
        last_ms: when it took the newest.
        stream_id: names this incarnation of the stream.
    """

    first: int
    last: int
    first_ms: int
    last_ms: int
    stream_id: str


def parse(text: str, field: str, now_ms: int) -> Moment:
    """Returns the moment that a text says.

    Args:
        text: as the caller wrote it.
        field: the parameter that it is the value of.
        now_ms: unix milliseconds.

    Raises:
        InvalidFieldError: if it says none, or one that is still to come.

    Source: RFC 3339, section 5.6; a time without a zone is UTC, and one without seconds is a whole minute.
    """
    said = text.strip()
    if len(said) > _TEXT_MAX:
        raise _unknown(text, field)
    if said.lower() == "now":
        return Moment(field=field)
    if said.isascii() and said.isdigit() and len(said) <= _DIGITS_MAX:
        return Moment(field=field, position=int(said))
    ago = _AGO.fullmatch(said.lower())
    if ago is not None:
        return Moment(field=field, time_ms=max(0, now_ms - int(ago[1]) * _UNITS_MS[ago[2]]))
    time_ms = _time_ms(said, text, field)
    if time_ms > now_ms + AHEAD_MAX_MS:
        raise InvalidFieldError(field, f"{shown(text)} is still to come")
    return Moment(field=field, time_ms=time_ms)


def check(moment: Moment, kept: Kept, begins: int, begins_ms: int) -> None:
    """Checks that a moment lies within what can be told.

    Args:
        moment: which one.
        kept: what the stream holds.
        begins: the first position of which the whole registry can be told.
        begins_ms: when the stream took that event, unix milliseconds.

    Raises:
        BeforeHistoryError: if it lies before that.
        InvalidFieldError: if the stream has not come so far.
    """
    if moment.position is not None and moment.position > kept.last:
        raise InvalidFieldError(moment.field, f"the stream has come to position {kept.last} so far")
    if begins > kept.last or not moment.includes(begins, begins_ms):
        raise BeforeHistoryError(moment.field, begins, iso(begins_ms))


def _time_ms(said: str, text: str, field: str) -> int:
    if not (len(said) >= len("2026-01-01") and said[:4].isdigit() and said[4] == "-"):
        raise _unknown(text, field)
    try:
        moment = datetime.fromisoformat(said.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise _unknown(text, field) from None


def _unknown(text: str, field: str) -> InvalidFieldError:
    return InvalidFieldError(
        field,
        f"{shown(text)} is no moment: a position, a time (2026-11-25T12:00Z), now, or 15m, 1h, 7d",
    )
