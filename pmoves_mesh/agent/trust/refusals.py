"""Refused enrolments as audit events, few enough that no stranger can flood the stream with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from pmoves_mesh.core.event import EnrolmentRefused, IdentityIssued
from pmoves_mesh.errors import MeshError
from pmoves_mesh.ports import Clock

EVERY_S: Final = 10.0
"""At most one event of each reason in so many seconds; it says for how many refusals it stands."""

_TEXT_LENGTH_MAX: Final = 128

_log: Final = structlog.get_logger(__name__)


class Note(Protocol):
    """States an audit event in this node's name: the event's type, and its own fields."""

    async def __call__(self, event: type[IdentityIssued | EnrolmentRefused], **fields: str | int) -> None:
        """Returns when the event is durable; may raise `MeshError`."""
        ...


@dataclass
class _Window:
    """What was refused for one reason since its last event."""

    noted_s: float
    count: int = 0
    latest: tuple[str, str, str] = ("", "", "")


class Refusals:
    """Counts refusals by reason, and notes them."""

    def __init__(self, note: Note, clock: Clock) -> None:
        self._note = note
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    async def add(self, reason: str, name: str, token: str, remote: str) -> None:
        """Takes a refusal: the first of its reason for a while is noted at once, others later together.

        Args:
            reason: one of those that the CA knows.
            name: what was asked for.
            token: the public part of the token that was shown.
            remote: the address it came from.
        """
        window = self._windows.setdefault(reason, _Window(self._clock.monotonic_s() - EVERY_S))
        window.count += 1
        window.latest = (name[:_TEXT_LENGTH_MAX], token[:_TEXT_LENGTH_MAX], remote[:_TEXT_LENGTH_MAX])
        await self._flush(reason, window)

    async def run(self) -> None:
        """Notes for ever what was counted meanwhile."""
        while True:
            await self._clock.sleep(EVERY_S)
            for reason, window in list(self._windows.items()):
                await self._flush(reason, window)

    async def _flush(self, reason: str, window: _Window) -> None:
        now_s = self._clock.monotonic_s()
        if not window.count or now_s - window.noted_s < EVERY_S:
            return
        count, window.count, window.noted_s = window.count, 0, now_s
        name, token, remote = window.latest
        _log.warning("enrolment refused", reason=reason, name=name, token=token, remote=remote, count=count)
        try:
            await self._note(
                EnrolmentRefused, reason=reason, name=name, token=token, remote=remote, count=count
            )
        except MeshError as error:
            _log.warning("a refused enrolment could not be noted", reason=reason, detail=str(error))
