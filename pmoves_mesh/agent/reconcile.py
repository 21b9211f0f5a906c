"""Reconciling: the bucket is compared with what this agent knows, and what differs is mended.

Each node looks after its own keys, which it can state again whatever the stream forgot. One node,
on which all agree without a word, looks after all the others, and mends them from the stream. It
happens rarely, and what differs must differ twice: events are always under way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core import records
from pmoves_mesh.core.comparison import Difference, Synced, compare, marks_in, marks_of
from pmoves_mesh.errors import (
    CapacityError,
    LogError,
    LogUnavailable,
    RemoteProtocolError,
    SequenceGap,
    StoreError,
)
from pmoves_mesh.ports import Bucket, Clock, EventLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.examination import EVERY, examine
from pmoves_mesh.views.rebuild import rebuild

_log: Final = structlog.get_logger(__name__)

_AGAIN_S: Final = 2.0
_CURRENT_S: Final = 10.0
_LOOK_S: Final = 0.05
_SHOWN_MAX: Final = 10


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What a reconciler looks after.

    Attributes:
        node: this node.
        interval_s: between two comparisons, more or less.
        restate: makes this node announce itself soon.
        waiting: how many of this node's events are not in the stream yet.
        begun_anew: set when the replica began anew, which is a reason to compare at once.
        begin_anew: has the replica made anew, and returns when it is.
    """

    node: str
    interval_s: float
    restate: Callable[[], None]
    waiting: Callable[[], int]
    begun_anew: asyncio.Event
    begin_anew: Callable[[], Coroutine[Any, Any, None]]


class Reconciler:
    """Compares, and mends."""

    def __init__(
        self,
        charge: Charge,
        registrations: Registrations,
        replica: Replica,
        log: EventLog,
        bucket: Bucket,
        clock: Clock,
    ) -> None:
        self._charge = charge
        self._registrations = registrations
        self._replica = replica
        self._log = log
        self._bucket = bucket
        self._clock = clock
        self._rounds = 0
        self._syncing = asyncio.Lock()

    async def run(self) -> None:
        """Compares for ever; what cannot be done now is done in the next round."""
        while True:
            await self._wait()
            try:
                await self.reconcile()
            except (LogError, StoreError, CapacityError, SequenceGap) as error:
                _log.debug("not reconciled", detail=str(error))

    async def reconcile(self) -> None:
        """Compares once, and mends what differs.

        Raises:
            LogError: if the log cannot be reached.
            StoreError: if what is stated again cannot be made durable.
            CapacityError: if the outbox is full.
        """
        chosen = self._is_chosen()
        differ = await self._twice(every=chosen)
        if not differ:
            return
        _log.warning(
            "the bucket says otherwise",
            keys=len(differ),
            first=[f"{key}: {problem}" for key, problem in differ[:_SHOWN_MAX]],
        )
        if chosen:
            await self._mend()
            left = {one.key for one in await self._differences(every=True)}
            differ = [(key, problem) for key, problem in differ if key in left]
        await self._restate(key for key, _ in differ)

    async def sync(self) -> Synced:
        """Compares everything at once, and mends it: the bucket and the replica from the stream.

        What this node registered, and the stream does not know, is stated again.

        Raises:
            LogUnavailable: if the log cannot be reached, or not all of it could be read.
            StoreError: if what is stated again cannot be made durable.
            CapacityError: if the outbox is full.
        """
        async with self._syncing:
            await self._settled()
            restated = self._replica.repairs["restated"]
            rebuilt = await rebuild(self._log, self._bucket, self._replica.verifier, self._clock)
            wrong = await self._twice(every=True)
            if wrong:
                _log.warning("this replica says otherwise", keys=len(wrong), first=wrong[:_SHOWN_MAX])
                await self._begin_anew()
                await self._settled()
            await self.reconcile()
            await self._settled()
            left = await self._twice(every=True)
            return Synced(
                position=self._replica.position,
                keys=rebuilt.keys,
                written=rebuilt.written,
                deleted=rebuilt.deleted,
                replica=len(wrong),
                restated=self._replica.repairs["restated"] - restated,
                left=tuple(key for key, _ in left),
            )

    async def _begin_anew(self) -> None:
        try:
            async with asyncio.timeout(_CURRENT_S):
                await self._charge.begin_anew()
        except TimeoutError:
            raise LogUnavailable(f"the replica was not made anew within {_CURRENT_S:.0f} s") from None

    async def _settled(self) -> None:
        """Waits until nothing is under way that could differ by itself.

        Raises:
            LogUnavailable: if it is after 10 s.
        """
        try:
            async with asyncio.timeout(_CURRENT_S):
                while not self._replica.is_current or self._charge.waiting():
                    await self._clock.sleep(_LOOK_S)
        except TimeoutError:
            raise LogUnavailable("this agent is not current, so there is nothing to compare") from None

    async def _twice(self, *, every: bool) -> list[tuple[str, str]]:
        """Returns the keys, and the problem of each, that differ now and a moment later."""
        before = await self._differences(every=every)
        if not before:
            return []
        await self._clock.sleep(_AGAIN_S)
        return sorted(_pairs(before) & _pairs(await self._differences(every=every)))

    async def _wait(self) -> None:
        """Waits for the next round: its moment differs from node to node and from round to round."""
        begun_anew = self._charge.begun_anew
        seconds = self._charge.interval_s * (0.75 + 0.5 * self._draw(self._charge.node))
        self._rounds += 1
        try:
            async with asyncio.timeout(seconds):
                await begun_anew.wait()
        except TimeoutError:
            return
        begun_anew.clear()
        await self._replica.wait_current(_CURRENT_S)
        # The announcer looks at once for what the stream does not know of this node.
        self._charge.restate()

    def _draw(self, name: str) -> float:
        """Returns a number from 0 to 1 that depends on a name and on the round."""
        digest = hashlib.sha256(f"{name} {self._rounds}".encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32

    def _is_chosen(self) -> bool:
        """Returns whether this node looks after the keys of all, which the living agree on by their names."""
        nodes = self._replica.registry.nodes.values()
        alive = [node.name for node in nodes if node.status == "alive" and node.announced is not None]
        first = min(alive, key=lambda name: hashlib.sha256(name.encode()).digest(), default="")
        return first in {"", self._charge.node}

    async def _differences(self, *, every: bool) -> list[Difference]:
        """Returns where the bucket differs, of all keys or this node's; none while events are under way."""
        node, replica = self._charge.node, self._replica
        if not replica.is_current or self._charge.waiting():
            return []
        own = (records.node_key(node), f"service.*.{node}.*")
        found: list[Difference] = []
        held: dict[str, records.Record] = {}
        for pattern in (EVERY,) if every else own:
            examined = await examine(self._bucket, replica.verifier, pattern)
            held.update(examined.held)
            found += examined.spoilt
        wanted = marks_of(replica.registry)
        if not every:
            wanted = {key: mark for key, mark in wanted.items() if _is_of(key, node)}
        spoilt = {one.key for one in found}
        found += [one for one in compare("bucket", wanted, marks_in(held)) if one.key not in spoilt]
        return found

    async def _mend(self) -> None:
        """Writes the bucket anew from the stream, as far as that differs."""
        try:
            done = await rebuild(self._log, self._bucket, self._replica.verifier, self._clock)
        except RemoteProtocolError as error:
            _log.warning("the bucket is not mended", detail=str(error))
            return
        if mended := done.written + done.deleted:
            self._replica.repairs["bucket"] += mended
            _log.warning("the bucket was mended from the stream", written=done.written, deleted=done.deleted)

    async def _restate(self, keys: Iterable[str]) -> None:
        """States again what of this node the bucket lacks; its manifest removes what is too much."""
        announce = False
        for key in keys:
            if not _is_of(key, self._charge.node):
                continue
            announce = True
            instance = records.parse_instance_key(key)
            if instance is not None:
                self._replica.repairs["restated"] += await self._registrations.restate(instance)
        if announce:
            self._charge.restate()


def _pairs(differences: Iterable[Difference]) -> set[tuple[str, str]]:
    return {(one.key, one.problem) for one in differences}


def _is_of(key: str, node: str) -> bool:
    """Returns whether a key of the bucket is about a node itself, or an instance of it."""
    if key == records.node_key(node):
        return True
    instance = records.parse_instance_key(key)
    return instance is not None and instance.node == node
