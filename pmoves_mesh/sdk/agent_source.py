"""Following an agent: its watch keeps a directory in step, and its absence leaves the directory as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from pmoves_mesh.errors import MeshError
from pmoves_mesh.ports import Clock
from pmoves_mesh.sdk.agent_api import AgentApi
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.events import Reader, fold

_log: Final = structlog.get_logger(__name__)

_RETRY_MIN_S: Final = 0.2
_RETRY_MAX_S: Final = 2.0


class AgentSource:
    """Follows one agent; implements `directory.Source`."""

    def __init__(
        self, api: AgentApi, directory: Directory, clock: Clock, random: Callable[[], float]
    ) -> None:
        """Takes the source of chance, so that a thousand programs do not come back at once."""
        self.problem = "the agent was not asked yet"
        self.anew = asyncio.Event()
        self._api = api
        self._directory = directory
        self._clock = clock
        self._random = random

    async def run(self) -> None:
        """Keeps the directory in step with the agent's replica, for ever."""
        wait_s = _RETRY_MIN_S
        while True:
            wait_s = _RETRY_MIN_S if await self._take_turn() else min(wait_s * 2, _RETRY_MAX_S)
            await self._clock.sleep(wait_s * (0.5 + self._random()))

    async def _take_turn(self) -> bool:
        """Follows until the watch ends, and returns whether it ever began."""
        before = self.problem
        try:
            self._directory.node = (await self._api.index()).node
            await self._follow()
            found = "the agent ended the watch"
        except MeshError as error:
            found = str(error)
        followed, self.problem = not self.problem, found
        if found != before:
            _log.warning("the agent is not followed; answering from memory", detail=found)
        return followed

    async def _follow(self) -> None:
        """Follows until the watch ends."""
        reader = Reader()
        async with self._api.watch() as parts:
            async for part in parts:
                for event in reader.feed(part):
                    if not fold(self._directory, event):
                        return
                    if event.name == "snapshot":
                        if self.problem:
                            _log.info("the agent is followed", agent=self._api.url)
                        self.problem = ""
                        self.anew.set()
