"""A simulated host: one agent made of the real classes, which crashes, stops and starts again.

It mirrors `agent.agent` and `agent.link`, which bring in NATS, files and HTTP.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from builders import MESH, Authority, Identity
from chronicle import Chronicle, ChronicledBroker
from disk import Disk, SimStore
from virtual_time import SimClock

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.config import load
from pmoves_mesh.core.model import Instance, InstanceKey, Stamp
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogUnavailable, SequenceConflict, SequenceGap
from pmoves_mesh.log.memory import Faults, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.log.topology import IDENTITIES, REGISTRY
from pmoves_mesh.replica import Applied, Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.materialiser import Materialiser

T = TypeVar("T")
Held = dict[InstanceKey, tuple[Instance, Stamp]]
"""Instances, and the stamps at which their owner stated them last."""

_RETRY_S: Final = 0.1
_LEAVE_S: Final = 1.5
_OUTBOX_LOADED_MAX: Final = 1_000_000


@dataclass(frozen=True)
class Mesh:
    """What all hosts share."""

    seed: int
    broker: ChronicledBroker
    chronicle: Chronicle
    authority: Authority
    announce_s: float


class Reader:
    """A connection to the broker, and a replica that can follow its stream."""

    def __init__(self, mesh: Mesh, clock: SimClock, rng: random.Random, faults: Faults | None = None) -> None:
        self.client = MemoryClient(mesh.broker, rng, faults)
        self.log = MemoryLog(self.client)
        self.bucket = MemoryBucket(self.client, REGISTRY)
        self.identities = MemoryBucket(self.client, IDENTITIES)
        self.queue = MemoryWorkQueue(self.client)
        verifier = Verifier(Trust(MESH, [mesh.authority.root]), self.identities, clock)
        self.replica = Replica(verifier, self.log, self.bucket, clock)
        self._clock = clock

    async def follow(self, identity: Identity | None = None) -> None:
        """Follows the stream for ever; mirrors `Link.run`."""
        while True:
            await self._connected()
            try:
                if identity is not None:
                    await self._show(identity)
                await self._choose_beginning()
                await self.replica.run()
            except LogUnavailable:
                await self._clock.sleep(_RETRY_S)
            except SequenceGap:
                self.replica.restore(Registry(), "")

    async def _connected(self) -> None:
        with self.client.broker.listener() as news:
            while not self.client.connected:
                news.clear()
                await news.wait()

    async def _choose_beginning(self) -> None:
        replica, bounds = self.replica, await self.log.bounds()
        if replica.stream_id and (replica.stream_id != bounds.stream_id or replica.position > bounds.last):
            replica.restore(Registry(), "")
        replica.stream_id = bounds.stream_id
        if replica.position + 1 < bounds.first or (replica.position == 0 and bounds.last > 0):
            await replica.restore_from_bucket(min(await self.queue.floor(), bounds.last))

    async def _show(self, identity: Identity) -> None:
        if await self.identities.get(identity.fingerprint) is None:
            try:
                await self.identities.put(identity.fingerprint, identity.der, expected=0)
            except SequenceConflict:
                return


@dataclass(frozen=True)
class Agent:
    """One run of the agent, while it lives."""

    reader: Reader
    store: SimStore
    author: Author
    outbox: Outbox
    saver: Saver
    registrations: Registrations
    announcer: Announcer
    materialiser: Materialiser

    @property
    def replica(self) -> Replica:
        return self.reader.replica


class Host:
    """A host of the mesh.

    Attributes:
        agent: its agent, once that answers; None while it is down or starts.
        faults: between it and the broker, in this run and the next ones.
        is_up: its agent runs, if only to start or to stop.
    """

    def __init__(self, mesh: Mesh, name: str, identity: Identity) -> None:
        self.name: Final = name
        self.identity: Final = identity
        self.disk: Final = Disk()
        self.clock: Final = SimClock()
        self.faults: Final = Faults()
        self.agent: Agent | None = None
        self.is_up = False
        self._mesh = mesh
        self._config = load(
            {"PMOVES_MESH_NAME": MESH, "MESH_HOSTNAME": name, "ANNOUNCE_SEC": str(mesh.announce_s)},
            Path(__file__).parent,
        )
        self._runs = 0
        self._cut = 0
        self._client: MemoryClient | None = None
        self._store: SimStore | None = None
        self._stopping = asyncio.Event()
        self._materialising: asyncio.Task[None] | None = None
        self._stalled_until_s = 0.0
        self._life: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}

    def stored(self) -> Held:
        """Returns what is registered here, by what is on the disk."""
        held = Held()
        for one in self.disk.journal.registrations():
            record = msgspec.json.decode(one.record, type=Instance)
            held[record.key] = record, Stamp(one.incarnation, one.revision)
        return held

    def start(self) -> None:
        """Starts the agent."""
        self._runs += 1
        self._mesh.chronicle.note(f"{self.name} starts")
        self.is_up = True
        self._stopping = asyncio.Event()
        self._life = asyncio.create_task(self._live(self._life), name=f"{self.name} run {self._runs}")

    def crash(self, *, disk_lost: bool = False) -> None:
        """Ends the agent in the middle of whatever it does."""
        self._mesh.chronicle.note(f"{self.name} crashes{' and loses its disk' if disk_lost else ''}")
        self.is_up, self.agent = False, None
        if self._store is not None:
            self._store.die()
        if self._client is not None:
            self._client.disconnect()
        for task in (*self._calls, self._life):
            if task is not None:
                task.cancel()
        if disk_lost:
            self.disk.lose()

    def stop(self) -> None:
        """Has the agent leave the mesh and end, which takes it a moment."""
        self._mesh.chronicle.note(f"{self.name} stops")
        self._stopping.set()

    async def stopped(self) -> None:
        """Waits until the agent has ended, if it was ended on purpose or not."""
        if self._life is not None and (self._stopping.is_set() or not self.is_up):
            await asyncio.wait((self._life,))

    def cut(self) -> None:
        """Cuts the host off; it is joined again once every cut was mended."""
        self._cut += 1
        self._mesh.chronicle.note(f"{self.name} is cut off")
        if self._client is not None:
            self._client.disconnect()

    def mend(self) -> None:
        self._cut -= 1
        if self._cut == 0 and self._client is not None:
            self._mesh.chronicle.note(f"{self.name} is joined again")
            self._client.reconnect()

    def heal(self) -> None:
        """Has nothing go wrong any more between it and the broker, nor with its disk."""
        self.faults.drop = self.faults.duplicate = self.faults.delay_max_s = self.faults.reorder = 0.0
        self.disk.latency_max_s = 0.002
        self._stalled_until_s = 0.0
        if self._cut:
            self._cut = 1
            self.mend()

    def stall(self, seconds: float) -> None:
        """Has the materialiser drop its work, and do none for a while."""
        self._mesh.chronicle.note(f"{self.name} materialises nothing for {seconds:.1f} s")
        self._stalled_until_s = self.clock.monotonic_s() + seconds
        if self._materialising is not None:
            self._materialising.cancel()

    async def call(self, work: Callable[[Agent], Coroutine[Any, Any, T]]) -> asyncio.Task[T] | None:
        """Asks the agent for something; returns the ended call, cancelled if the agent ended first."""
        if self.agent is None:
            return None
        task = asyncio.create_task(work(self.agent))
        self._calls[task] = None
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
            self._calls.pop(task, None)
        return task

    async def _live(self, before: asyncio.Task[None] | None) -> None:
        tasks: list[asyncio.Task[Any]] = []
        if before is not None:
            await asyncio.wait((before,))
        try:
            agent = await self._assembled()
            self.agent = agent
            for work in (
                agent.reader.follow(self.identity),
                agent.outbox.run(),
                self._materialise(agent.materialiser),
                agent.saver.run(),
                self._watch(agent),
            ):
                tasks.append(asyncio.create_task(work))
            announcing = asyncio.create_task(agent.announcer.run())
            stopping = asyncio.create_task(self._stopping.wait())
            tasks += (announcing, stopping)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                announcing.cancel()
                await self._leave(agent)
        finally:
            self.agent = None
            calls = [*self._calls]
            for task in (*calls, *tasks):
                task.cancel()
            await asyncio.gather(*calls, *tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self._mesh.chronicle.violate(f"{self.name} ended by itself: {error!r}")
            self._mesh.chronicle.note(f"{self.name} is down")
            self.is_up = False

    async def _assembled(self) -> Agent:
        """Builds the agent; mirrors `agent._assemble`."""
        rng = random.Random(f"{self._mesh.seed} {self.name} {self._runs}")
        reader = Reader(self._mesh, self.clock, rng, self.faults)
        self._client = reader.client
        if self._cut:
            reader.client.disconnect()
        store = self._store = SimStore(self.disk, rng)
        replica, log, clock = reader.replica, reader.log, self.clock
        replica.verifier.trust.admit(self.identity.der)
        saver = Saver(MESH, replica, store, clock)
        await saver.load()
        outbox = Outbox(store, log, clock)
        for entry in await store.outbox(_OUTBOX_LOADED_MAX):
            replica.apply_own(entry.sealed)
            outbox.put(entry)
        author = Author(self.name, self.identity, store, replica, outbox, clock)
        await author.begin()
        host = f"{self.name}.example"
        registrations = Registrations(author, replica, log, clock, host=host, mode="docked")
        registrations.restore(await store.registrations())
        return Agent(
            reader=reader,
            store=store,
            author=author,
            outbox=outbox,
            saver=saver,
            registrations=registrations,
            announcer=Announcer(self._config, author, registrations, replica, log, clock),
            materialiser=Materialiser(reader.queue, reader.bucket, replica, clock),
        )

    async def _leave(self, agent: Agent) -> None:
        """Mirrors `agent._leave`."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await agent.announcer.leave("stopped")
                await agent.outbox.drained(_LEAVE_S)
            await agent.saver.save()
        except TimeoutError:
            self._mesh.chronicle.note(f"{self.name} left without the log's word")
        await agent.store.settled()

    async def _materialise(self, materialiser: Materialiser) -> None:
        """Runs the materialiser for ever, but for stalls."""
        while True:
            await self.clock.sleep(self._stalled_until_s - self.clock.monotonic_s())
            self._materialising = asyncio.create_task(materialiser.run())
            try:
                await asyncio.wait((self._materialising,))
            finally:
                self._materialising.cancel()
            if not self._materialising.cancelled():
                self._materialising.result()

    async def _watch(self, agent: Agent) -> None:
        """Sees to it that the replica never goes back."""
        reached = 0

        def notice(_applied: Applied) -> None:
            nonlocal reached
            position = agent.replica.position
            if position < reached:
                self._mesh.chronicle.violate(f"{self.name} went back from {reached} to {position}")
            reached = max(position, reached)

        await agent.replica.wait_current(1e9)
        with agent.replica.subscribed(notice):
            await asyncio.Event().wait()
