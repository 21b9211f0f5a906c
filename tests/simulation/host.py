"""A simulated host: one agent made of the real classes, which crashes, stops and starts again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from assembly import Agent, Makings, assembled, loops
from builders import MESH
from disk import Disk, SimStore
from reader import Mesh, Reader
from trust import ROOTS, Identity, identity, root_fingerprint
from virtual_time import SimClock

from pmoves_mesh.config import load
from pmoves_mesh.core.event import Removed, RootsRotated
from pmoves_mesh.core.model import Instance, InstanceKey, Stamp
from pmoves_mesh.errors import IdentityCloned
from pmoves_mesh.log.endings import Ending
from pmoves_mesh.log.memory import Faults, MemoryClient
from pmoves_mesh.subscribers import Applied
from pmoves_mesh.views.materialiser import Materialiser

T = TypeVar("T")
Held = dict[InstanceKey, tuple[Instance, Stamp]]
"""Instances, and the stamps at which their owner stated them last."""

_LEAVE_S: Final = 1.5
_ENDS_S: Final = 0.003
_UNHEARD_S: Final = 30.0


class Host:
    """A host of the mesh.

    Attributes:
        agent: its agent, once that answers; None while it is down or starts.
        faults: between it and the broker, in this run and the next ones.
        usual: those that are there even while nothing is wrong.
        is_up: its agent runs, if only to start or to stop.
        name: of its node; a copied host has the name of the other.
        label: tells hosts of one name apart.
        identity: on its disk.
        roots: of the CAs that its disk names.
        was_refused: its agent ended because another one with its identity lives.
        vanished: it is gone for good.
        was_set_back: it lost its disk, and woke in the past.
    """

    def __init__(self, mesh: Mesh, name: str, usual: Faults, *, copied: Host | None = None) -> None:
        self.name: Final = name
        self.label: Final = name + "+" * sum(host.name == name for host in mesh.hosts)
        self.identity = identity(name) if copied is None else copied.identity
        self.roots = mesh.law.roots if copied is None else copied.roots
        self.disk: Final = Disk() if copied is None else copied.disk.copy()
        self.was_refused = False
        self.vanished = self.was_set_back = False
        mesh.law.identities[self.identity.fingerprint] = self.identity
        self.clock: Final = SimClock()
        self.usual: Final = usual
        self.faults: Final = replace(usual)
        self.agent: Agent | None = None
        self.is_up = False
        self._mesh = mesh
        self._config = load(
            {
                "PMOVES_MESH_NAME": MESH,
                "MESH_HOSTNAME": name,
                "ANNOUNCE_SEC": str(mesh.announce_s),
                "PMOVES_RECONCILE_S": str(mesh.reconcile_s),
            },
            Path(__file__).parent,
        )
        self._runs = 0
        self._successors = 0
        self._cut = 0
        self._server = random.Random(f"{mesh.seed} {self.label} as the server sees it")
        mesh.hosts.append(self)
        self._client: MemoryClient | None = None
        self._store: SimStore | None = None
        self._stopping = asyncio.Event()
        self._materialising: asyncio.Task[None] | None = None
        self._stalled_until_s = 0.0
        self._life: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}

    @property
    def answers(self) -> bool:
        """Whether its kernel answers whoever connects, were it only to refuse."""
        return not self.vanished and self._cut == 0

    @property
    def is_stopping(self) -> bool:
        """Whether its agent was told to leave."""
        return self._stopping.is_set()

    def stored(self) -> Held:
        """Returns what is registered here, by what is on the disk."""
        held = Held()
        for one in self.disk.journal.registrations():
            record = msgspec.json.decode(one.record, type=Instance)
            held[record.key] = record, Stamp(one.incarnation, one.revision)
        return held

    def start(self) -> None:
        """Starts the agent; one whose certificate is of none of the CAs that it knows ends at once."""
        if self.identity.root not in self.roots:
            self._mesh.chronicle.note(f"{self.label} does not start: it has to join again")
            return
        self._runs += 1
        self._mesh.chronicle.note(f"{self.label} starts")
        self.is_up = True
        self._stopping = asyncio.Event()
        self._life = asyncio.create_task(self._live(self._life), name=f"{self.label} run {self._runs}")

    def crash(self, *, disk_lost: bool = False) -> None:
        """Ends the agent in the middle of whatever it does."""
        self._mesh.chronicle.note(f"{self.label} crashes{' and loses its disk' if disk_lost else ''}")
        self.is_up, self.agent = False, None
        if self._store is not None:
            self._store.die()
        self._hang_up(_ENDS_S)
        for task in (*self._calls, self._life):
            if task is not None:
                task.cancel()
        if disk_lost:
            self.disk.lose()

    def stop(self) -> None:
        """Has the agent leave the mesh and end, which takes it a moment."""
        self._mesh.chronicle.note(f"{self.label} stops")
        self._stopping.set()

    async def stopped(self) -> None:
        """Waits until the agent has ended, if it was ended on purpose or not."""
        if self._life is not None and (self._stopping.is_set() or not self.is_up):
            await asyncio.wait((self._life,))

    def cut(self) -> None:
        """Cuts the host off; it is joined again once every cut was mended."""
        self._cut += 1
        self._mesh.chronicle.note(f"{self.label} is cut off")
        self._hang_up(self._server.uniform(0, _UNHEARD_S))

    def mend(self) -> None:
        self._cut -= 1
        if self._cut == 0 and self._client is not None:
            self._mesh.chronicle.note(f"{self.label} is joined again")
            self._reconnect(self._client)

    def lose_connection(self) -> None:
        """Has the server restart under it: it is connected again at once."""
        if self._client is not None and self._cut == 0 and self._client.connected:
            self._client.disconnect()
            self._reconnect(self._client)

    def _reconnect(self, client: MemoryClient) -> None:
        client.reconnect()
        if self.agent is not None:
            self.agent.lease.hurry()  # mirrors `suspicions.showing`

    def _connection(self) -> str:
        """Returns what tells its connection from all others; empty if there is none."""
        client = self._client
        return f"{self.label}-{self._runs}-{client.epoch}" if client is not None and client.connected else ""

    def _hang_up(self, noticed_s: float) -> None:
        """Ends the connection, if there is one; the server notices after so many seconds, and tells."""
        if self._client is not None and (connection := self._connection()):
            ending = Ending(self.name, connection, 0.0)
            asyncio.get_running_loop().call_later(noticed_s, self._mesh.broker.tell_end, ending)
            self._client.disconnect()

    def succeed(self, root: int) -> Identity:
        """Gives it another identity of its node, on its disk, and returns that."""
        self._successors += 1
        self.identity = identity(self.name, root, self._successors)
        self._mesh.law.identities[self.identity.fingerprint] = self.identity
        self._mesh.chronicle.note(f"{self.label} has its identity no. {self._successors}, under CA {root}")
        return self.identity

    def heal(self) -> None:
        """Has nothing go wrong any more between it and the broker, nor with its disk."""
        vars(self.faults).update(vars(self.usual))
        self.disk.latency_max_s = 0.002
        self._stalled_until_s = 0.0
        if self._cut:
            self._cut = 1
            self.mend()

    def stall(self, seconds: float) -> None:
        """Has the materialiser drop its work, and do none for a while."""
        self._mesh.chronicle.note(f"{self.label} materialises nothing for {seconds:.1f} s")
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
            makings = self._makings()
            agent = await assembled(makings)
            self.agent = agent
            works = (*loops(agent, makings), self._watch(agent))
            tasks += [asyncio.create_task(work) for work in works]
            announcing = asyncio.create_task(agent.announcer.run())
            stopping = asyncio.create_task(self._stopping.wait())
            tasks += (announcing, stopping)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                announcing.cancel()
                await self._leave(agent)
        except Exception as error:  # noqa: BLE001 - whatever it is, an agent must not end by it
            self._violate(f"ended by itself: {error!r}")
        finally:
            self.agent = None
            calls = [*self._calls]
            for task in (*calls, *tasks):
                task.cancel()
            await asyncio.gather(*calls, *tasks, return_exceptions=True)
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self._ended_by(error)
            if self.is_up and self._store is not None:
                await self._store.end()
            self._hang_up(_ENDS_S)
            self._mesh.chronicle.note(f"{self.label} is down")
            self.is_up = False

    def _ended_by(self, error: BaseException) -> None:
        if isinstance(error, IdentityCloned) and self.name in self._mesh.law.cloned:
            self._mesh.chronicle.note(f"{self.label} ends: {error}")
            self.was_refused = True
        else:
            self._violate(f"ended by itself: {error!r}")

    def _makings(self) -> Makings:
        rng = random.Random(f"{self._mesh.seed} {self.label} {self._runs}")
        begun = self.identity

        def speaks() -> Identity:
            return begun if self.agent is None else self.agent.author.identity

        reader = Reader(self._mesh, self.clock, rng, self.faults, self.roots, speaks)
        self._client = reader.client
        if self._cut:
            reader.client.disconnect()
        self._store = SimStore(self.disk, rng)
        return Makings(
            mesh=self._mesh,
            config=self._config,
            label=self.label,
            identity=begun,
            clock=self.clock,
            rng=rng,
            reader=reader,
            store=self._store,
            connection=self._connection,
            materialise=self._materialise,
        )

    async def _leave(self, agent: Agent) -> None:
        """Mirrors `agent._leave`."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await agent.announcer.leave("stopped")
                await agent.outbox.drained(_LEAVE_S)
            await agent.saver.save()
        except TimeoutError:
            self._mesh.chronicle.note(f"{self.label} left without the log's word")
        await agent.lease.release()

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
        """Sees to it that the replica never goes back: not its position, and not what it says of a key."""
        reached = 0
        latest: dict[InstanceKey, Stamp] = {}
        law = self._mesh.law

        def look() -> None:
            nonlocal reached
            position = agent.replica.position
            if position < reached and not law.begun_anew:
                self._violate(f"went back from {reached} to {position}")
            reached = position

        def notice(applied: Applied) -> None:
            asyncio.get_running_loop().call_soon(look)
            event = applied.verified.event
            if isinstance(event, RootsRotated):
                self._keep_roots(agent)
            if law.begun_anew or event.node in law.cloned:
                latest.clear()  # of hosts with one identity, each says what it knows
            if isinstance(event, Removed):
                latest[event.key] = max(event.stamp, latest.get(event.key, event.stamp))
            for key in applied.change.instances:
                entry = agent.replica.registry.entry(key)
                if entry is not None and entry.stamp < latest.get(key, entry.stamp):
                    self._violate(f"says again of {key} what was so before")
                elif entry is not None:
                    latest[key] = entry.stamp

        await agent.replica.wait_current(1e9)
        self._keep_roots(agent)
        with agent.replica.subscribed(notice):
            await asyncio.Event().wait()

    def _keep_roots(self, agent: Agent) -> None:
        """Writes down which CAs hold; mirrors `RootsKeeper`."""
        known = agent.replica.verifier.trust.root_fingerprints
        self.roots = tuple(root for root in range(ROOTS) if root_fingerprint(root) in known)

    def _violate(self, what: str) -> None:
        self._mesh.chronicle.violate(f"{self.label} {what}")
