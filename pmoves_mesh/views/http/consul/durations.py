"""Durations as Go writes them: `10s`, `1m30s`, `120000ms`.

Source: Go's `time.ParseDuration`; a number in JSON is in nanoseconds.
"""

from __future__ import annotations

import re
from typing import Final

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError

_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{0,9})?"
_DURATION: Final = re.compile(rf"\+?(?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h))+|0")
_PART: Final = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(value: str | float, field: str) -> float:
    """Returns a duration in seconds; 0 for an empty text.

    Raises:
        InvalidFieldError: if it is none, or below 0; names `field`.
    """
    if isinstance(value, int | float):
        if value < 0:
            raise InvalidFieldError(field, f"{shown(value)} is below 0")
        return value / 1e9
    text = value.strip()
    if not text:
        return 0.0
    if not _DURATION.fullmatch(text):
        raise InvalidFieldError(field, f"{shown(value)} is not a duration such as 10s or 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
