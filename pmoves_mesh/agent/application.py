"""Sees to it that what applications tell one another is kept, where this agent may make streams."""

from __future__ import annotations

from typing import Final

import structlog

from pmoves_mesh.config import Config
from pmoves_mesh.errors import LogError
from pmoves_mesh.log.application import ensure
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 5.0


class ApplicationStreams:
    """Makes the streams once for each session; nothing of the mesh itself waits for them."""

    def __init__(self, config: Config, connection: Connection, clock: Clock) -> None:
        """Takes how long they keep what, where they are, and the time."""
        self._mesh = config.mesh
        self._retention = config.events
        self._connection = connection
        self._clock = clock
        self._said = ""

    async def run(self) -> None:
        """Ensures them for ever."""
        while True:
            session = await self._connection.next_session()
            try:
                standings = await ensure(self._connection, self._mesh, self._retention)
            except LogError as error:
                self._say("the streams of applications cannot be seen to; trying again", str(error))
                await self._clock.sleep(_RETRY_S)
                continue
            others = [f"{one.stream} keeps {one.subject}" for one in standings if one.stream and not one.ours]
            if others:
                self._say("streams of another making are left as they are", "; ".join(others))
            await session.lost.wait()

    def _say(self, what: str, detail: str) -> None:
        """Logs what is not said yet."""
        if detail != self._said:
            _log.info(what, detail=detail)
        self._said = detail
