"""Suspicions: what the server tells this node that may mean that another one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import structlog

from pmoves_mesh.agent.liveness.lease import LeaseKeeper
from pmoves_mesh.agent.liveness.witness import Suspicion, Witness
from pmoves_mesh.core.witness import BROKEN_S, FOLLOWERS_MAX, TURN_S, answering_s
from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.endings import Ending, NatsEndings
from pmoves_mesh.ports import Clock, Marker, Markers

_log: Final = structlog.get_logger(__name__)

_FETCH_MAX_S: Final = 5.0
_RETRY_S: Final = 0.25
_REFUSED_RETRY_S: Final = 5.0
_FOLLOWED_MAX: Final = 1024


class Suspicions:
    """Hears of leases that ran out, and of connections that ended, and lets the witness follow them up."""

    def __init__(self, witness: Witness, markers: Markers, endings: NatsEndings, clock: Clock) -> None:
        self._witness = witness
        self._markers = markers
        self._endings = endings
        self._clock = clock
        self._followed: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Hears for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_markers(group))
            for subject in self._endings.subjects:
                group.create_task(self._hear(subject, group))

    def _begin(self, group: asyncio.TaskGroup, following: Coroutine[Any, Any, None]) -> None:
        if len(self._followed) >= _FOLLOWED_MAX:
            following.close()  # what is not followed up now, the sweeper finds
            return
        task = group.create_task(following)
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    # Leases that ran out

    async def _take_markers(self, group: asyncio.TaskGroup) -> None:
        # What is asked for must not still wait for a node whose own lease runs out.
        wait_s = min(_FETCH_MAX_S, self._witness.ttl_s / 2)
        while True:
            if not self._witness.may_judge:
                await self._clock.sleep(_RETRY_S)
                continue
            try:
                for marker in await self._markers.fetch(wait_s):
                    self._begin(group, self._judge(marker))
            except RightMissing as error:
                _log.debug("markers of leases are not heard", detail=str(error))
                await self._clock.sleep(_REFUSED_RETRY_S)
            except LogError as error:
                _log.debug("markers of leases wait", detail=str(error))
                await self._clock.sleep(_RETRY_S)

    async def _judge(self, marker: Marker) -> None:
        node, witness = marker.node, self._witness
        try:
            patience_s = 0.0
            if node in witness.alive() and await witness.has_no_lease(node) and await witness.answers(node):
                patience_s = answering_s(witness.ttl_s)
            suspicion = Suspicion(
                node=node,
                reason="its lease ran out",
                gone=partial(witness.has_no_lease, node),
                patience_s=patience_s,
                working=marker.working,
            )
            if await witness.follow(suspicion):
                await marker.ack()
        except LogError as error:
            # It is handed out again, here or elsewhere.
            _log.debug("marker not judged", node=node, detail=str(error))

    # Connections that ended

    async def _hear(self, subject: str, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                async for ending in self._endings.heard(subject):
                    self._witness.note_ended(ending.connection)
                    self._begin(group, self._outlive(ending))
            except RightMissing as error:
                _log.info("the ends of connections are not heard; leases tell later", detail=str(error))
                return
            except LogError as error:
                _log.debug("the ends of connections are not heard now", detail=str(error))
                await self._clock.sleep(_RETRY_S)

    async def _outlive(self, ending: Ending) -> None:
        witness, node = self._witness, ending.node
        rank = witness.early_rank(node, FOLLOWERS_MAX)
        if rank is None:
            return
        cut_off = partial(witness.is_cut_off, node, ending.connection)
        try:
            await self._clock.sleep(max(0.0, BROKEN_S - ending.ended_s) + rank * TURN_S)
            if await cut_off():
                gone = partial(cut_off, seen=True)
                await witness.follow(Suspicion(node=node, reason="its connection ended", gone=gone))
        except LogError as error:
            _log.debug("an ended connection is not followed up", node=node, detail=str(error))


def showing(
    connection: Connection, endings: NatsEndings, keeper: LeaseKeeper, clock: Clock
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Returns a loop that lets each of this node's connections be known by its lease, and its end be told."""

    async def show() -> None:
        while True:
            session = await connection.next_session()
            keeper.hurry()
            try:
                await endings.follow(session)
            except LogUnavailable:
                await clock.sleep(_RETRY_S)
            except LogError as error:
                _log.debug("the end of this connection is not told", detail=str(error))
                await clock.sleep(_REFUSED_RETRY_S)

    return show
