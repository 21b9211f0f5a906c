"""The follower: keeps a replica on the mesh's stream, and begins anew where that is not what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, Protocol

import structlog

from pmoves_mesh.core import records
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import LogError, LogUnavailable, SequenceConflict, SequenceGap
from pmoves_mesh.ports import Bucket, Clock, EventLog, LogBounds, WorkQueue
from pmoves_mesh.replica import Repair, Replica
from pmoves_mesh.views.rebuild import continues, settle

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 0.1
_REFUSED_RETRY_S: Final = 5.0


class Shown(Protocol):
    """What the mesh has to see of a node before it can believe it."""

    @property
    def fingerprint(self) -> str:
        """Of its certificate."""

    @property
    def certificate_der(self) -> bytes:
        """Its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What of the mesh is followed.

    Attributes:
        connected: waits until there is a connection.
        ensure: makes sure that stream and buckets are there, and returns what the stream holds.
        registry: the bucket.
        identities: the bucket of certificates.
        queue: of what the registry bucket still lacks.
    """

    connected: Callable[[], Awaitable[object]]
    ensure: Callable[[], Awaitable[LogBounds]]
    log: EventLog
    registry: Bucket
    identities: Bucket
    queue: WorkQueue


class Follower:
    """Joins the mesh and follows its stream.

    Attributes:
        problem: what keeps this node from the mesh now; empty if nothing does.
        incident: what last befell the stream, and when; empty if nothing did.
        begun_anew: set whenever this replica began anew; whoever waits for it clears it.
    """

    def __init__(
        self,
        upstream: Upstream,
        replica: Replica,
        identity: Callable[[], Shown],
        clock: Clock,
        *,
        patient: bool = False,
    ) -> None:
        """Takes what it needs.

        Args:
            upstream: what it follows.
            replica: what it keeps up to date.
            identity: gives who this node is.
            clock: the time.
            patient: whether what keeps this node from its first joining passes by itself, as where
                another host has yet to make the streams.
        """
        self._patient = patient
        self.problem = ""
        self.incident = ""
        self.begun_anew: Final = asyncio.Event()
        self._upstream = upstream
        self._replica = replica
        self._identity = identity
        self._clock = clock
        self._broken_off = False
        self._wanted_anew = asyncio.Event()
        self._made_anew = asyncio.Event()
        self._joined = asyncio.Event()

    @property
    def may_wait(self) -> bool:
        """Whether a refusal may pass: this node was in the mesh before, or is told to be patient."""
        return self._patient or self._replica.stream_id != ""

    def once_joined(
        self, loop: Callable[[], Coroutine[Any, Any, None]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """Returns `loop`, made to begin only once this node has joined the mesh.

        Before that nobody could verify its events, and the stream may even be another mesh's.
        """

        @wraps(loop)
        async def begin() -> None:
            await self._joined.wait()
            await loop()

        return begin

    async def run(self) -> None:
        """Follows the stream for ever.

        Raises:
            LogError: if this node cannot join and never did: what is wrong needs a person.
        """
        while True:
            await self._upstream.connected()
            try:
                await self._join()
                self.problem = ""
                self._joined.set()
                await self._follow()
            except LogUnavailable as error:
                self.problem = str(error)
                await self._clock.sleep(_RETRY_S)
            except SequenceGap as error:
                _log.warning("the stream does not continue this replica", detail=str(error))
                self._broken_off = True
            except LogError as error:
                if not self.may_wait:
                    raise
                self.problem = str(error)
                _log.warning("not joined; trying again", detail=str(error), after_s=_REFUSED_RETRY_S)
                await self._clock.sleep(_REFUSED_RETRY_S)

    async def begin_anew(self) -> None:
        """Makes the replica anew from bucket and stream; what it knows is served meanwhile.

        It returns when the stream is followed again, which takes a log that can be reached.
        """
        self._made_anew.clear()
        self._wanted_anew.set()
        await self._made_anew.wait()

    async def _follow(self) -> None:
        """Follows the stream until the replica is to be made anew; raises as `Replica.run`."""
        following = asyncio.ensure_future(self._replica.run())
        wanted = asyncio.ensure_future(self._wanted_anew.wait())
        try:
            await asyncio.wait((following, wanted), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, wanted):
                task.cancel()
            await asyncio.gather(following, wanted, return_exceptions=True)

    async def show(self, identity: Shown) -> None:
        """Lets the mesh see a certificate of this node.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        name, identities = identity.fingerprint, self._upstream.identities
        if await identities.get(name) is None:
            try:
                await identities.put(name, identity.certificate_der, expected=0)
            except SequenceConflict:
                _log.debug("certificate already shown by another run", fingerprint=name)

    async def _join(self) -> None:
        """Makes sure that stream and buckets are there, shows our certificate, chooses where to begin."""
        replica = self._replica
        bounds = await self._upstream.ensure()
        await self.show(self._identity())
        other = replica.stream_id != bounds.stream_id or replica.position > bounds.last
        truncated = replica.position + 1 < bounds.first
        if not replica.stream_id:
            await self._boot(bounds)
        elif other or (self._broken_off and not truncated):
            await self._begin_anew(bounds)
        elif truncated:
            self._report("truncated", f"the stream begins at {bounds.first}, after {replica.position}")
            await self._boot(bounds, dict(replica.registry.decrees))
            self.begun_anew.set()
        elif self._wanted_anew.is_set():
            await self._boot(bounds)
            self.begun_anew.set()
        self._wanted_anew.clear()
        self._made_anew.set()
        self._broken_off = False
        replica.stream_id = bounds.stream_id

    async def _begin_anew(self, bounds: LogBounds) -> None:
        """Leaves the history that is no more, but for what operators decreed in it."""
        decrees, upstream = self._replica.registry.decrees, self._upstream
        self._report("replaced", f"the stream was made anew or restored; it ends at {bounds.last}")
        carried = {
            key: records.encode(records.of_before(records.decode(value))) for key, value in decrees.items()
        }
        await settle(upstream.log, upstream.registry, every=True)
        for key, value in carried.items():
            await self._restate(key, records.decode(value))
        await self._boot(bounds, carried)
        self.begun_anew.set()

    async def _restate(self, key: str, carried: records.Record) -> None:
        """Puts a decree into the bucket, if that lacks it: newcomers learn it from there."""
        registry = self._upstream.registry
        entry = await registry.get(key)
        held = records.readable(entry.value) if entry else None
        fresh = records.merged(held, carried)
        if fresh is not None:
            with suppress(SequenceConflict):  # another agent carries the same
                await registry.put(key, records.encode(fresh), expected=entry.revision if entry else 0)

    def _report(self, kind: Repair, what: str) -> None:
        self._replica.repairs[kind] += 1
        self.incident = f"{iso(self._clock.now_ms())}: {what}; this replica began anew from the bucket"
        _log.warning("the stream is not what it was", kind=kind, detail=what)

    async def _boot(self, bounds: LogBounds, carried: Mapping[str, bytes] | None = None) -> None:
        upstream, replica = self._upstream, self._replica
        floor = min(await upstream.queue.floor(), bounds.last)
        if floor + 1 < bounds.first:
            _log.warning("events are gone that the bucket lacks", held=floor, first=bounds.first)
            floor = bounds.first - 1  # nobody has them, so nobody need wait for them
        reach = await replica.restore_from_bucket(floor, carried)
        if not await continues(upstream.log, reach):
            await settle(upstream.log, upstream.registry, every=True)
            reach = await replica.restore_from_bucket(floor, carried or {})
        _log.info("booted from the bucket", keys=reach.keys, position=floor)
