"""The lease: clones are found and told, and nobody else ever stops; on a real server, and on the twin."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from builders import Authority, Identity
from log_support import CA, DEADLINE_S, connected, eventually
from nats_server import NatsServer
from structlog.testing import capture_logs

from pmoves_mesh.agent.liveness.lease import LeaseKeeper, Tenant
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import lease
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import IdentityCloned, LogUnavailable, RemoteProtocolError
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient
from pmoves_mesh.log.topology import IDENTITIES, LEASES, ensure
from pmoves_mesh.ports import Bucket
from pmoves_mesh.verifier import Verifier

TTL_S = 2
TOLD_WITHIN_S = TTL_S / 3 + 1
LATER_TOLD_WITHIN_S = 2 * TTL_S / 3 + 1
MESH = "pmoves-mesh"


class Place(Protocol):
    """Where leases are kept: a server, or its twin."""

    async def bucket(self, name: str) -> Bucket:
        """Returns a bucket over a connection of its own."""
        ...

    async def restart(self) -> None: ...

    async def stop(self) -> None: ...

    async def start(self) -> None: ...


class Server:
    def __init__(self, server: NatsServer, stack: AsyncExitStack) -> None:
        self._server = server
        self._stack = stack
        self._connections: list[Connection] = []

    async def bucket(self, name: str) -> Bucket:
        connection = await self._stack.enter_async_context(
            connected(NatsSettings(servers=(self._server.url,)))
        )
        await ensure(connection, MESH, CA)
        self._connections.append(connection)
        return NatsBucket(connection, name)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)
        for connection in self._connections:
            await connection.wait_connected(DEADLINE_S)
            await ensure(connection, MESH, CA)


class Twin:
    def __init__(self) -> None:
        self._broker = MemoryBroker(SystemClock())
        self._clients: list[MemoryClient] = []

    async def bucket(self, name: str) -> Bucket:
        client = MemoryClient(self._broker, random.Random(1))
        self._clients.append(client)
        return MemoryBucket(client, name)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        for client in self._clients:
            client.disconnect()

    async def start(self) -> None:
        self._broker.lose(LEASES)
        for client in self._clients:
            client.reconnect()


@pytest.fixture(params=["memory", "nats"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "memory":
        yield Twin()
        return
    with NatsServer(tmp_path) as server:
        async with AsyncExitStack() as stack:
            yield Server(server, stack)


class HeldClock(SystemClock):
    """A clock in which no pause ends while the host is suspended."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.awake.set()

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self.awake.wait()


class Host:
    """One run of an agent, as far as its lease is concerned."""

    def __init__(
        self, name: str, bucket: Bucket, identities: Bucket, identity: Identity, trust: Trust
    ) -> None:
        self.clock = HeldClock()
        self.told: list[Lease] = []
        tenant = Tenant(
            node="alpha",
            host=name,
            ttl_s=TTL_S,
            incarnation=self.clock.now_ms,
            identity=lambda: identity,
        )
        verifier = Verifier(trust, identities, self.clock)
        self.keeper = LeaseKeeper(tenant, verifier, bucket, self.clock, self.told.append)
        self.task = asyncio.create_task(self.keeper.run())

    @property
    def runs(self) -> bool:
        return not self.task.done()

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def stopped(self, within_s: float) -> str:
        """Waits until it stops for the other, and returns what it says."""
        with pytest.raises(IdentityCloned) as caught:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self.task)
        return str(caught.value)


class Mesh:
    """The leases of one mesh, and the runs of node alpha that come and go."""

    def __init__(self, place: Place) -> None:
        now = datetime.now(UTC)  # noqa: TID251 - certificates must hold now
        self.begin, self.end = now - timedelta(hours=1), now + timedelta(hours=1)
        self.place = place
        self.authority = Authority()
        self.alpha = self.identity("alpha")
        self.hosts: list[Host] = []

    def identity(self, node: str) -> Identity:
        return self.authority.identity(node, begin=self.begin, end=self.end)

    async def start(self, name: str, identity: Identity | None = None, trust: Trust | None = None) -> Host:
        """Starts a run on a host, and returns once it holds the lease."""
        bucket, identities = await self.place.bucket(LEASES), await self.place.bucket(IDENTITIES)
        host = Host(name, bucket, identities, identity or self.alpha, trust or self.authority.trust)
        self.hosts.append(host)
        await eventually(lambda: self.holds(host))
        return host

    async def look(self) -> Lease | None:
        """Returns the lease that is there now, if there is one to be believed and the server is not away."""
        bucket = await self._watcher()
        with suppress(LogUnavailable, RemoteProtocolError):
            entry = await bucket.get("alpha")
            if entry is not None:
                return lease.unseal(entry.value, "alpha", self.authority.trust, SystemClock().now_ms())
        return None

    async def write(self, value: bytes) -> None:
        await (await self._watcher()).put("alpha", value)

    async def holds(self, host: Host) -> bool:
        found = await self.look()
        return found is not None and found.holder == host.keeper.holder

    async def is_free(self) -> bool:
        return await (await self._watcher()).get("alpha") is None

    async def keeps(self, host: Host, for_s: float) -> None:
        """Checks that a run lives on, and writes its lease again and again, for some seconds."""
        until = time.perf_counter() + for_s
        while time.perf_counter() < until:
            assert host.runs, host.task
            since = await self.look()

            async def is_refreshed(since: Lease | None = since) -> bool:
                found = await self.look()
                return found is not None and found != since and found.holder == host.keeper.holder

            await eventually(is_refreshed)
        assert host.runs

    async def _watcher(self) -> Bucket:
        if not hasattr(self, "_bucket"):
            self._bucket = await self.place.bucket(LEASES)
        return self._bucket


@pytest.fixture
async def mesh(place: Place) -> AsyncIterator[Mesh]:
    made = Mesh(place)
    yield made
    for host in made.hosts:
        if host.runs:
            await host.kill()


async def test_of_a_node_and_its_clone_both_are_told_and_the_later_one_stops(mesh: Mesh):
    first = await mesh.start("first.example")
    clone = await mesh.start("clone.example")
    said = await clone.stopped(TOLD_WITHIN_S)
    assert said == (
        "node alpha already runs on first.example with this identity: "
        "give this host a name and an identity of its own (pmoves-mesh join)"
    )
    assert [told.host for told in first.told] == ["clone.example"]
    assert first.keeper.clone == first.told[0]
    await mesh.keeps(first, TTL_S)
    assert len(first.told) == 1
    assert not clone.told


async def test_each_clone_is_told_of_once_however_often_it_comes_back(mesh: Mesh):
    first = await mesh.start("first.example")
    for number in range(3):
        clone = await mesh.start(f"clone-{number}.example")
        await clone.stopped(TOLD_WITHIN_S)
    assert [told.host for told in first.told] == [f"clone-{number}.example" for number in range(3)]
    assert first.runs


async def test_of_three_that_start_at_once_exactly_one_remains(mesh: Mesh):
    hosts = await asyncio.gather(*(mesh.start(f"host-{number}.example") for number in range(3)))

    async def one_is_left() -> bool:
        return [host.runs for host in hosts].count(True) == 1

    await eventually(one_is_left)
    (left,) = [host for host in hosts if host.runs]
    await mesh.keeps(left, TTL_S)
    for host in hosts:
        if host is not left:
            await host.stopped(1)


async def test_a_node_that_is_killed_and_started_again_holds_its_lease_at_once_and_nobody_stops(mesh: Mesh):
    for _ in range(3):
        host = await mesh.start("first.example")
        assert await mesh.holds(host)
        await host.kill()
    last = await mesh.start("first.example")
    await mesh.keeps(last, 1.5 * TTL_S)
    assert not any(host.told for host in mesh.hosts)


async def test_a_killed_server_that_lost_all_leases_stops_nobody(mesh: Mesh):
    host = await mesh.start("first.example")
    for _ in range(2):
        await mesh.place.restart()
        await mesh.keeps(host, TTL_S / 2)
    assert not host.told
    assert host.keeper.problem == ""


async def test_a_clone_is_found_although_the_server_forgets_both(mesh: Mesh):
    first = await mesh.start("first.example")
    clone = await mesh.start("clone.example")
    await mesh.place.restart()

    async def one_is_left() -> bool:
        return first.runs != clone.runs

    await eventually(one_is_left)
    await mesh.keeps(first if first.runs else clone, TTL_S)


async def test_while_the_server_is_away_it_is_tried_again_and_logged_once(mesh: Mesh):
    host = await mesh.start("first.example")
    with capture_logs() as logs:
        await mesh.place.stop()

        async def is_cut_off() -> bool:
            return host.keeper.problem != "" and (host.keeper.last_refresh_s or 0) > TTL_S

        await eventually(is_cut_off)
        assert host.runs
        await mesh.place.start()
        await mesh.keeps(host, TTL_S / 2)
    ours = [entry["event"] for entry in logs if entry["event"].startswith("lease")]
    assert ours == ["lease not refreshed; trying again", "lease refreshed again"]
    held_ms = SystemClock().now_ms() - (host.keeper.held_since_ms or 0)
    assert held_ms < TTL_S * 1000 + 5000


async def test_a_host_that_was_suspended_stops_when_it_returns_if_another_took_the_name(mesh: Mesh):
    suspended = await mesh.start("suspended.example")
    suspended.clock.awake.clear()
    await eventually(mesh.is_free)
    other = await mesh.start("other.example")
    suspended.clock.awake.set()
    assert "other.example" in await suspended.stopped(LATER_TOLD_WITHIN_S)
    assert [told.host for told in other.told] == ["suspended.example"]
    await mesh.keeps(other, TTL_S)


async def test_a_host_that_was_suspended_goes_on_if_nobody_took_the_name(mesh: Mesh):
    suspended = await mesh.start("suspended.example")
    suspended.clock.awake.clear()
    await eventually(mesh.is_free)
    suspended.clock.awake.set()
    await mesh.keeps(suspended, TTL_S)
    assert not suspended.told


async def test_a_clone_that_was_suspended_while_it_was_refused_stops_when_it_returns(mesh: Mesh):
    first = await mesh.start("first.example")
    clone = await mesh.start("clone.example")
    clone.clock.awake.clear()
    await eventually(lambda: mesh.holds(first))
    await mesh.keeps(first, 1.5 * TTL_S)
    clone.clock.awake.set()
    assert "first.example" in await clone.stopped(TOLD_WITHIN_S)
    assert first.runs


@pytest.mark.parametrize("what", ["garbage", "another node's", "old"])
async def test_what_the_node_did_not_just_write_itself_is_overwritten_and_stops_nobody(mesh: Mesh, what: str):
    earlier = await mesh.start("first.example")
    found = await mesh.look()
    assert found is not None
    await earlier.kill()
    host = await mesh.start("first.example")
    refusing = Lease(
        node="alpha",
        incarnation=found.incarnation + 1,
        holder="f" * 16,
        refused=(host.keeper.holder,),
        host="beta.example",
        time_ms=found.time_ms + 1,
    )
    values = {
        "garbage": b"\x00 not a lease",
        "another node's": lease.seal(refusing, MESH, mesh.identity("beta")),
        "old": lease.seal(found, MESH, mesh.alpha),
    }
    with capture_logs() as logs:
        await mesh.write(values[what])
        await mesh.keeps(host, 1.5 * TTL_S)
    assert not host.told
    unbelieved = [entry for entry in logs if entry["event"] == "lease not believed; writing it anew"]
    assert len(unbelieved) == (0 if what == "old" else 1)


async def test_a_clone_that_has_a_certificate_of_its_own_is_found_too(mesh: Mesh):
    renewed = mesh.authority.identity("alpha", admit=False, begin=mesh.begin, end=mesh.end)
    identities = await mesh.place.bucket(IDENTITIES)
    await identities.put(renewed.fingerprint, renewed.der)
    first = await mesh.start("first.example")
    theirs = Trust(MESH, [mesh.authority.root])
    theirs.admit(mesh.alpha.der)
    theirs.admit(renewed.der)
    bucket = await mesh.place.bucket(LEASES)
    clone = Host("clone.example", bucket, identities, renewed, theirs)
    mesh.hosts.append(clone)
    await clone.stopped(TOLD_WITHIN_S)
    assert [told.host for told in first.told] == ["clone.example"]


async def test_a_lease_that_was_given_back_is_free_at_once_and_stays_so(mesh: Mesh):
    host = await mesh.start("first.example")
    await host.keeper.release()
    assert await mesh.is_free()
    async with asyncio.timeout(TTL_S):
        await host.task
    assert await mesh.is_free()
    after = await mesh.start("second.example")
    found = await mesh.look()
    assert found is not None
    assert found.over == ()
    assert after.runs


async def test_giving_back_a_lease_that_cannot_be_reached_takes_no_time(mesh: Mesh):
    host = await mesh.start("first.example")
    await mesh.place.stop()
    begin = time.perf_counter()
    await host.keeper.release()
    assert time.perf_counter() - begin < 1


async def test_giving_back_leaves_alone_what_another_holds(mesh: Mesh):
    first = await mesh.start("first.example")
    first.clock.awake.clear()
    other = await mesh.start("other.example")
    await first.keeper.release()
    assert await mesh.holds(other)
    await mesh.keeps(other, TTL_S)


async def test_a_lease_says_who_holds_it_since_when_and_how_quickly_it_is_refreshed(mesh: Mesh):
    host = await mesh.start("first.example")
    keeper = host.keeper
    await mesh.keeps(host, TTL_S)
    assert 0 < keeper.latency_s < 1
    assert keeper.last_refresh_s is not None
    assert 0 <= keeper.last_refresh_s < TTL_S / 3 + 1
    assert TTL_S * 1000 <= SystemClock().now_ms() - (keeper.held_since_ms or 0) < 60_000
    found = await mesh.look()
    assert found is not None
    assert (found.node, found.host, found.over, found.refused) == ("alpha", "first.example", (), ())
