"""Witnesses in virtual time: who is stated lost, when, by whom, and who never is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from builders import MESH, Authority, Identity, announced, instance, line, registered
from virtual_time import SimClock, ended, run

from pmoves_mesh.agent.liveness.suspicions import Suspicions
from pmoves_mesh.agent.liveness.sweeper import Sweeper
from pmoves_mesh.agent.liveness.witness import Witness
from pmoves_mesh.core import envelope, lease, wire
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import InstanceExpired, NodeLost
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.core.witness import absence_max_s, answering_s, rank
from pmoves_mesh.log.endings import Ending
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

TTL_S = 10
ANNOUNCE_S = 15.0
SOON_S = 0.5
LEASES, IDENTITIES = "leases", "identities"


async def passing(seconds: float) -> None:
    """Lets virtual time pass."""
    await SimClock().sleep(seconds)


@dataclass
class Keeper:
    """A node's own lease, as far as its witness asks."""

    client: MemoryClient
    ttl_s: int = TTL_S
    is_steady: bool = True

    @property
    def connection(self) -> str:
        return str(self.client.epoch) if self.client.connected else ""


@dataclass
class Author:
    """A node's own name and signature."""

    node: str
    identity: Identity
    mesh: str = MESH


@dataclass
class Marker:
    """A lease that ran out, handed to one witness; without an acknowledgement it is handed out again."""

    node: str
    queue: asyncio.Queue[str]
    acked: bool = False
    worked_on: int = 0

    async def ack(self) -> None:
        self.acked = True

    async def working(self) -> None:
        self.worked_on += 1

    async def overdue(self) -> None:
        seen = -1
        while not self.acked and self.worked_on != seen:
            seen = self.worked_on
            await passing(2)
        if not self.acked:
            self.queue.put_nowait(self.node)


class Markers:
    """The shared consumer."""

    def __init__(self, queue: asyncio.Queue[str], tasks: list[asyncio.Task[Any]]) -> None:
        self._queue = queue
        self._tasks = tasks

    async def fetch(self, timeout_s: float) -> list[Marker]:
        try:
            async with asyncio.timeout(timeout_s):
                marker = Marker(await self._queue.get(), self._queue)
        except TimeoutError:
            return []
        self._tasks.append(asyncio.create_task(marker.overdue()))
        return [marker]


class Endings:
    """What one witness hears of ended connections."""

    subjects = ("endings",)

    def __init__(self) -> None:
        self.told: asyncio.Queue[Ending] = asyncio.Queue()

    async def heard(self, _subject: str) -> AsyncIterator[Ending]:
        while True:
            yield await self.told.get()


class Judge(Witness):
    """A witness that knows which hosts answer without asking the network."""

    answering: set[str]

    async def answers(self, node: str) -> bool:
        return node in self.answering


@dataclass
class Node:
    """A node: it holds its lease while it lives, and is a witness of the others."""

    name: str
    identity: Identity
    leases: MemoryBucket
    replica: Replica
    keeper: Keeper
    witness: Judge
    endings: Endings
    client: MemoryClient
    connection: str = ""
    lives: bool = True
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def refresh(self) -> None:
        value = lease.seal(
            Lease(
                node=self.name,
                incarnation=1,
                holder="a" * 16,
                host=f"{self.name}.example",
                time_ms=1,
                connection=self.connection,
            ),
            MESH,
            self.identity,
        )
        await self.leases.put(self.name, value, ttl_s=TTL_S)

    async def hold(self, first_s: float) -> None:
        await passing(first_s)
        while True:
            if self.lives and self.client.connected:
                await self.refresh()
            await passing(TTL_S / 3)

    def is_lost(self, node: str) -> bool:
        return self.replica.registry.nodes[node].status == "lost"


class Mesh:
    """A broker and the nodes on it."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.broker = MemoryBroker(self.clock)
        self.authority = Authority()
        self.nodes: dict[str, Node] = {}
        self.markers: asyncio.Queue[str] = asyncio.Queue()
        self.answering: set[str] = set()
        self.forgetful = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._phase = random.Random(7)

    # Its life

    async def start(self, *names: str, watching: bool = True) -> None:
        for name in names:
            self.nodes[name] = self._node(name)
            self.say(announced(1, [], node=name))
        self._tasks.append(asyncio.create_task(self._mark()))
        for node in self.nodes.values():
            await node.refresh()
            if watching:
                self._watch(node)
        await passing(1)

    def _node(self, name: str) -> Node:
        client = MemoryClient(self.broker, random.Random(name))
        identity = self.authority.identity(name)
        leases = MemoryBucket(client, LEASES)
        verifier = Verifier(
            self.authority.trust, MemoryBucket(client, IDENTITIES), self.clock, accept_unsigned=True
        )
        log = MemoryLog(client)
        replica = Replica(verifier, log, MemoryBucket(client, "registry"), self.clock)
        keeper = Keeper(client)
        witness = Judge(Author(name, identity), replica, log, leases, keeper, self.clock)
        witness.answering = self.answering
        return Node(name, identity, leases, replica, keeper, witness, Endings(), client, f"{name}-1")

    def _watch(self, node: Node) -> None:
        suspicions = Suspicions(node.witness, Markers(self.markers, self._tasks), node.endings, self.clock)
        sweeper = Sweeper(node.witness, node.replica, node.leases, self.clock, announce_s=ANNOUNCE_S)

        async def remember() -> None:
            with node.replica.subscribed(node.witness.note):
                await suspicions.run()

        loops: list[Coroutine[Any, Any, None]] = [
            node.replica.run(),
            remember(),
            sweeper.run(),
            node.hold(self._phase.uniform(0, TTL_S / 3)),
        ]
        node.tasks = [asyncio.create_task(one) for one in loops]
        self._tasks += node.tasks

    async def _mark(self) -> None:
        """Tells of each lease that ran out, as the server does."""
        before: set[str] = set()
        while True:
            held = {entry.key for entry in self.broker.scan(LEASES, ">")}
            if not self.forgetful:
                for name in sorted(before - held):
                    self.markers.put_nowait(name)
            before = held
            await passing(0.01)

    async def end(self) -> None:
        await ended(self._tasks)

    # What happens to it

    def say(self, event: Any) -> None:
        identity = self.nodes[event.node].identity
        self.broker.publish(envelope.seal(event, identity), None)

    def say_unsigned(self, subject: str, body: dict[str, Any]) -> None:
        self.broker.publish(SealedEvent(subject=subject, payload=msgspec.json.encode(body)), None)

    async def kill(self, name: str, *, told: bool = False) -> None:
        """Ends a node without a word; the server tells of the end of its connection, or not."""
        node = self.nodes[name]
        node.lives = False
        await ended(node.tasks)
        if told:
            self.tell_end(name, node.connection)

    def tell_end(self, name: str, connection: str) -> None:
        for other in self.nodes.values():
            if other.lives:
                other.endings.told.put_nowait(Ending(name, connection, 0.0))

    def restart(self) -> None:
        """Restarts the server, which forgets the leases."""
        self.forgetful = True
        for node in self.nodes.values():
            node.client.disconnect()
        self.broker.lose(LEASES)
        for node in self.nodes.values():
            node.client.reconnect()

    # What came of it

    def stated(self, kind: type[Any]) -> list[Any]:
        messages, _ = self.broker.after(0, 10_000)
        sealed = [message.sealed for message in messages]
        return [wire.decode(one.subject, one.payload) for one in sealed if one.subject == kind.subject]

    @property
    def losses(self) -> list[str]:
        return [event.node for event in self.stated(NodeLost)]

    async def lost_after_s(self, name: str) -> float:
        """Returns after how many seconds a node is lost, to everybody who lives."""
        begin_s = self.clock.monotonic_s()
        others = [node for node in self.nodes.values() if node.lives]
        async with asyncio.timeout(10 * TTL_S):
            while not all(node.is_lost(name) for node in others):
                await passing(0.01)
        return self.clock.monotonic_s() - begin_s

    def order(self, about: str) -> list[str]:
        """Returns the witnesses of a node, the first one first."""
        names = self.nodes.keys() - {about}
        return sorted(names, key=lambda own: rank(own, about, names))


def in_mesh(
    *names: str, watching: bool = True
) -> Callable[[Callable[[Mesh], Awaitable[None]]], Callable[[], None]]:
    """Runs a test in virtual time, with a mesh of these nodes."""

    def wrap(test: Callable[[Mesh], Awaitable[None]]) -> Callable[[], None]:
        async def told() -> None:
            mesh = Mesh()
            try:
                await mesh.start(*names, watching=watching)
                await test(mesh)
            finally:
                await mesh.end()

        def runs() -> None:
            run(told())

        runs.__name__ = test.__name__
        return runs

    return wrap


FIVE = ("alpha", "beta", "gamma", "delta", "epsilon")


# Leases that ran out


@in_mesh("alpha", "beta", "gamma")
async def test_a_host_that_vanished_is_lost_as_soon_as_its_lease_has_run_out(mesh: Mesh):
    await mesh.kill("beta")
    assert TTL_S * 2 / 3 - SOON_S < await mesh.lost_after_s("beta") < TTL_S + SOON_S
    assert mesh.losses == ["beta"]


@in_mesh("alpha", "beta", "gamma")
async def test_a_host_that_still_answers_has_a_moment_more(mesh: Mesh):
    mesh.answering.add("beta")
    await mesh.kill("beta")
    grace_s = answering_s(TTL_S)
    assert TTL_S * 2 / 3 + grace_s - SOON_S < await mesh.lost_after_s("beta") < TTL_S + grace_s + SOON_S


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.6, 0.99])
def test_a_process_that_stands_still_for_less_than_a_lease_is_never_lost(phase: float):
    @in_mesh("alpha", "beta", "gamma")
    async def stopped(mesh: Mesh) -> None:
        node = mesh.nodes["beta"]
        mesh.answering.add("beta")
        await passing(phase * TTL_S / 3)
        for _ in range(5):
            node.lives = False
            await passing(TTL_S - 0.1)
            node.lives = True
            await node.refresh()
            await passing(TTL_S)
        assert mesh.losses == []

    stopped()


@in_mesh(*FIVE)
async def test_each_loss_stands_in_the_stream_once(mesh: Mesh):
    for name in ("beta", "delta"):
        await mesh.kill(name, told=name == "delta")
        await mesh.lost_after_s(name)
    await passing(5 * TTL_S)
    assert sorted(mesh.losses) == ["beta", "delta"]


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_that_wrote_its_lease_again_is_not_lost(mesh: Mesh):
    mesh.markers.put_nowait("beta")
    await passing(5 * TTL_S)
    assert mesh.losses == []


@in_mesh("alpha", "beta", "gamma")
async def test_a_witness_whose_own_lease_ran_out_leaves_the_judgement_to_another(mesh: Mesh):
    alpha, gamma = mesh.nodes["alpha"], mesh.nodes["gamma"]
    alpha.keeper.is_steady = gamma.keeper.is_steady = False
    await mesh.kill("beta", told=True)
    await passing(5 * TTL_S)
    assert mesh.losses == []
    gamma.keeper.is_steady = True
    await mesh.lost_after_s("beta")
    assert [event.witness for event in mesh.stated(NodeLost)] == ["gamma"]


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_whose_own_connection_is_away_declares_nobody(mesh: Mesh):
    alpha = mesh.nodes["alpha"]
    mesh.answering.add("alpha")
    alpha.client.disconnect()
    await passing(TTL_S / 2)
    alpha.client.reconnect()
    await passing(5 * TTL_S)
    assert mesh.losses == []


# Connections that ended


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_whose_connection_ended_is_lost_a_second_later(mesh: Mesh):
    await mesh.kill("beta", told=True)
    assert 1.0 <= await mesh.lost_after_s("beta") < 1.0 + SOON_S
    (event,) = mesh.stated(NodeLost)
    assert (event.witness, event.reason) == (mesh.order("beta")[0], "its connection ended")


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_that_connects_anew_within_a_second_is_not_lost(mesh: Mesh):
    beta = mesh.nodes["beta"]
    mesh.tell_end("beta", "beta-1")
    await passing(0.8)
    beta.connection = "beta-2"
    await beta.refresh()
    await passing(3 * TTL_S)
    assert mesh.losses == []


@in_mesh("alpha", "beta", "gamma")
async def test_the_end_of_another_connection_of_a_node_says_nothing(mesh: Mesh):
    mesh.tell_end("beta", "of-a-command")
    mesh.tell_end("unknown", "unknown-1")
    await passing(3 * TTL_S)
    assert mesh.losses == []


@in_mesh(*FIVE)
async def test_if_the_first_witness_is_gone_too_the_next_one_follows(mesh: Mesh):
    first, second, *_ = mesh.order("beta")
    await mesh.kill(first)
    await mesh.kill("beta", told=True)
    assert await mesh.lost_after_s("beta") < 2
    assert [event.witness for event in mesh.stated(NodeLost)] == [second]


# Most of the mesh at once


@in_mesh(*FIVE)
async def test_if_most_of_the_mesh_seems_lost_at_once_there_is_one_lease_more_and_no_longer(mesh: Mesh):
    for name in FIVE[:4]:
        await mesh.kill(name, told=True)
    assert 1 + TTL_S <= await mesh.lost_after_s("alpha") < 1 + TTL_S + 3
    for name in FIVE[:4]:
        await mesh.lost_after_s(name)
    assert sorted(mesh.losses) == sorted(FIVE[:4])


@in_mesh(*FIVE)
async def test_who_comes_back_in_that_time_is_not_lost(mesh: Mesh):
    for name in FIVE[:4]:
        mesh.tell_end(name, f"{name}-1")
    await passing(TTL_S / 2)
    for name in FIVE[:4]:
        mesh.nodes[name].connection = f"{name}-2"
        await mesh.nodes[name].refresh()
    await passing(3 * TTL_S)
    assert mesh.losses == []


@in_mesh("alpha", "beta", "gamma")
async def test_two_of_three_are_lost_without_a_pause(mesh: Mesh):
    await mesh.kill("alpha", told=True)
    await mesh.kill("beta", told=True)
    assert await mesh.lost_after_s("alpha") < 3
    assert await mesh.lost_after_s("beta") < 3


# What no marker told of


@in_mesh(*FIVE)
async def test_after_a_restart_of_the_server_nobody_is_lost(mesh: Mesh):
    for _ in range(3):
        mesh.restart()
        await passing(2 * TTL_S)
    assert mesh.losses == []


@in_mesh(*FIVE)
async def test_who_does_not_come_back_after_a_restart_is_lost_after_a_lease_and_a_margin(mesh: Mesh):
    await mesh.kill("beta")
    mesh.restart()
    assert absence_max_s(TTL_S) < await mesh.lost_after_s("beta") < absence_max_s(TTL_S) + 2 * TTL_S + SOON_S
    assert mesh.losses == ["beta"]


# Nodes that do not sign


def announcement(node: str) -> dict[str, Any]:
    return {"type": "mesh.node.announce.v1", "node": node, "host": "10.0.0.9", "port": 8086}


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_that_does_not_sign_is_lost_after_three_missed_announcements(mesh: Mesh):
    for _ in range(10):
        mesh.say_unsigned("mesh.node.announce.v1", announcement("today"))
        await passing(2 * ANNOUNCE_S)
    assert mesh.losses == []
    interval_s = ANNOUNCE_S * 2  # of a mesh of four
    assert 2 * interval_s < await mesh.lost_after_s("today") < 3 * interval_s + 2
    assert mesh.losses == ["today"]
    mesh.say_unsigned("mesh.node.announce.v1", announcement("today"))
    await passing(SOON_S)
    assert not mesh.nodes["alpha"].is_lost("today")


@in_mesh("alpha", "beta")
async def test_who_is_only_told_of_by_others_need_not_announce_itself(mesh: Mesh):
    record = {"name": "jellyfin", "host": "media", "port": 8096}
    mesh.say_unsigned("service.registry.registered", {"service": "jellyfin", "data": record})
    await passing(20 * ANNOUNCE_S)
    assert "media" in mesh.nodes["alpha"].replica.registry.nodes
    assert mesh.losses == []


# Instances of the lost


@in_mesh("alpha", "beta", "gamma")
async def test_each_instance_of_a_lost_node_leaves_the_registry_after_its_own_time(mesh: Mesh):
    short = instance(node="beta", instance_id="1", deregister_after=20.0)
    long = instance(node="beta", instance_id="2", deregister_after=60.0)
    mesh.say(registered(2, short))
    mesh.say(registered(3, long))
    await mesh.kill("beta", told=True)
    await mesh.lost_after_s("beta")
    await passing(19)
    assert mesh.stated(InstanceExpired) == []
    await passing(4)
    assert [event.id for event in mesh.stated(InstanceExpired)] == ["1"]
    await passing(40)
    assert [event.id for event in mesh.stated(InstanceExpired)] == ["1", "2"]


@in_mesh("alpha", "beta", "gamma")
async def test_a_node_that_speaks_again_takes_its_instances_back(mesh: Mesh):
    mesh.say(registered(2, instance(node="beta", deregister_after=5.0)))
    await mesh.kill("beta", told=True)
    await mesh.lost_after_s("beta")
    await passing(10)
    alpha = mesh.nodes["alpha"].replica.registry
    assert not [entry for entry in alpha.entries() if alpha.is_listed(entry)]
    await mesh.nodes["beta"].refresh()
    mesh.say(announced(3, [line(2)], node="beta"))
    await passing(SOON_S)
    assert [entry.key.node for entry in alpha.entries() if alpha.is_discoverable(entry)] == ["beta"]
