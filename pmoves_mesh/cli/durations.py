"""How long something holds, as people write it: `90s`, `15m`, `36h`, `30d`."""

from __future__ import annotations

import re
from typing import Any, Final

import click

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"\A([0-9]{1,9})([smhd])\Z")


def parse_duration(text: str) -> int | None:
    """Returns a duration in seconds, or None if the text is none."""
    found = _DURATION.match(text.strip().lower())
    return int(found[1]) * _UNITS[found[2]] if found else None


class Duration(click.ParamType[int]):
    """A command's option that takes a duration, within bounds; gives seconds."""

    name = "duration"

    def __init__(self, low_s: int, high_s: int) -> None:
        self._low_s = low_s
        self._high_s = high_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the seconds that were written."""
        seconds = parse_duration(str(value))
        if seconds is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 36h or 30d", param, ctx)
        if not self._low_s <= seconds <= self._high_s:
            low, high = shown_duration(self._low_s), shown_duration(self._high_s)
            self.fail(f"{value} is not {low} to {high}", param, ctx)
        return seconds


def shown_duration(seconds: int) -> str:
    """Returns a duration in its largest whole unit."""
    unit = next(unit for unit in reversed(_UNITS) if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
