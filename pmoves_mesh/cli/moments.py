"""Moments as people write and read them: in the zone of the host they sit at, and in UTC to the agent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from pmoves_mesh.cli.durations import parse_duration

NOW: Final = "now"
MOMENT: Final = (
    "a time such as '2026-11-23T06:00' (of this host's zone, unless it names one), so long ago, such as 15m "
    "or 7d, a position, or now"
)


class Moment(click.ParamType[str]):
    """A command's option that takes a moment of the mesh's past; gives it as the agent is asked for it."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns a position, a duration or `now` as it was written, and a time in UTC."""
        text = str(value).strip().lower()
        if text == NOW or (text.isascii() and text.isdigit()) or parse_duration(text) is not None:
            return text
        try:
            return _utc(datetime.fromisoformat(str(value).strip()))
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is not {MOMENT}", param, ctx)


def shown_time(text: object) -> str:
    """Returns an agent's time in this host's zone, which it names; whatever is no time, as it is.

    Source: RFC 3339.
    """
    try:
        return datetime.fromisoformat(str(text)).astimezone().isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(text or "")


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
