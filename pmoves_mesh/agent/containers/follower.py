"""Follows the container engine of this host: its events as they come, and all of its containers now and then.

Events say only that something happened; how a container is, is then asked. Whatever was missed, by an
agent or an engine that was away, is seen when all are asked: at the start, whenever the engine is
reached again, and every minute.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Final

from pmoves_mesh.agent.containers.engine import Engine, EngineAwayError, OddContainerError
from pmoves_mesh.agent.containers.keeper import Keeper
from pmoves_mesh.agent.containers.labels import NAME_LABEL
from pmoves_mesh.agent.containers.tally import Tally
from pmoves_mesh.ports import Clock

RESYNC_S: Final = 60.0
CHANGED_MAX: Final = 4096
"""With more changed containers than this at once, all are asked."""

_ANSWER_S: Final = 10.0
_AGAIN_FIRST_S: Final = 1.0
_AGAIN_MAX_S: Final = 30.0
_OVERLAP_S: Final = 2
"""Events are asked for from a little before all containers are: whole seconds are what engines count in."""


class Follower:
    """Keeps the keeper informed, for ever."""

    def __init__(
        self, engine: Engine, keeper: Keeper, tally: Tally, clock: Clock, *, resync_s: float = RESYNC_S
    ) -> None:
        """Takes whom to follow and whom to tell; all containers are asked every `resync_s` seconds."""
        self._engine = engine
        self._keeper = keeper
        self._tally = tally
        self._clock = clock
        self._resync_s = resync_s
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._heard_s = clock.monotonic_s()
        self._attempts = 0

    async def run(self) -> None:
        """Follows the engine for ever; one that is absent or away is waited for."""
        self._heard_s = self._clock.monotonic_s()
        while True:
            problem = await self._follow()
            if self._tally.followed:
                self._heard_s = self._clock.monotonic_s()
            self._tally.engine_away(problem)
            await self._keeper.release_unseen(self._clock.monotonic_s() - self._heard_s)
            await self._clock.sleep(min(_AGAIN_FIRST_S * 2**self._attempts, _AGAIN_MAX_S))
            self._attempts = min(self._attempts + 1, 16)

    async def _follow(self) -> EngineAwayError:
        """Follows the engine until that is no longer possible; returns why."""
        problem = EngineAwayError(f"the Docker engine gives no answer within {_ANSWER_S:g} s")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(self._clock.now_ms() // 1000 - _OVERLAP_S))
                await self._attend()
        except* EngineAwayError as away:
            problem = _first(away)
        except* TimeoutError:
            pass
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A group that failed while it was cancelled tells of the failure alone (until Python 3.13).
            raise asyncio.CancelledError
        return problem

    async def _listen(self, since_s: int) -> None:
        async with aclosing(self._engine.events(since_s)) as events:
            async for event in events:
                if event.tells and (not event.is_of_health or event.container in self._keeper.containers):
                    self._changed.add(event.container)
                    self._wake.set()
        raise EngineAwayError("the Docker engine ended its events")

    async def _attend(self) -> None:
        """Asks for all containers, then for those that change, and again for all when it is time."""
        due_s = self._clock.monotonic_s()
        while True:
            self._wake.clear()
            changed = frozenset(self._changed)
            self._changed.clear()
            if self._clock.monotonic_s() >= due_s or len(changed) > CHANGED_MAX:
                await self._ask_all()
                self._welcome()
                due_s = self._clock.monotonic_s() + self._resync_s
            else:
                for container in sorted(changed):
                    # If it is labelled, that is said once all are asked.
                    with suppress(OddContainerError):
                        await self._ask(container)
            await self._keeper.settle()
            try:
                async with asyncio.timeout(max(0.0, due_s - self._clock.monotonic_s())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _welcome(self) -> None:
        self._attempts = 0
        self._tally.engine_here(len(self._keeper.containers))

    async def _ask_all(self) -> None:
        async with asyncio.timeout(_ANSWER_S):
            running = await self._engine.running(NAME_LABEL)
        self._keeper.miss_all_but(frozenset(running))
        for container in running:
            try:
                await self._ask(container)
            except OddContainerError as odd:
                self._tally.unread(container, str(odd))

    async def _ask(self, container: str) -> None:
        """Asks how one container is, and those that share its network.

        Raises:
            OddContainerError: if that cannot be told; what was seen of it before then holds.
            EngineAwayError: if no engine answers.
        """
        async with asyncio.timeout(_ANSWER_S):
            found = await self._engine.inspect(container)
            if found is None:
                self._keeper.miss(container)
                return
            network = found
            if (shared := found.shares_network_of) is not None:
                network = await self._engine.inspect(shared) or found
        self._keeper.see(found, network)
        for other in self._keeper.sharing(found):
            self._keeper.see(other, found)


def _first(group: ExceptionGroup[EngineAwayError]) -> EngineAwayError:
    """Returns one error of a group: they all say that the engine is away."""
    error: EngineAwayError | ExceptionGroup[EngineAwayError] = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
