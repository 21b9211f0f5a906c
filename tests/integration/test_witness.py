"""What a witness hears from a real server: leases that run out, and connections that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from log_support import CA, DEADLINE_S, MESH, connected, eventually
from nats_server import NatsServer
from ports import free_port
from secured import SecuredMesh, running

from pmoves_mesh.core.names import bucket_stream
from pmoves_mesh.errors import LogUnavailable, RightMissing
from pmoves_mesh.log.api import ConsumerInfo, Done, call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.endings import CLIENT_NAME, Ending, NatsEndings
from pmoves_mesh.log.markers import NatsMarker, NatsMarkers
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.topology import LEASES, WITNESS, ensure, ensure_leases
from pmoves_mesh.server.permissions import disconnects

STREAM = bucket_stream(LEASES)
SHARED = f"{STREAM}.{WITNESS}"


class Place:
    """A server that tells of leases and connections, and whoever connects to it."""

    def __init__(self, stack: AsyncExitStack, subjects: tuple[str, ...]) -> None:
        self.subjects = subjects
        self._stack = stack

    async def connect(self, node: str) -> Connection:
        return await self._stack.enter_async_context(self.connected(node))

    def connected(self, node: str) -> AbstractAsyncContextManager[Connection]:
        raise NotImplementedError

    def endings(self, connection: Connection, node: str) -> NatsEndings:
        return NatsEndings(connection, node, self.subjects)


class Plain(Place):
    """A server of one account, which everybody may do everything in."""

    def __init__(self, stack: AsyncExitStack, server: NatsServer) -> None:
        super().__init__(stack, ())
        self.server = server

    @asynccontextmanager
    async def connected(self, node: str) -> AsyncIterator[Connection]:
        settings = NatsSettings(servers=(self.server.url,), name=f"{CLIENT_NAME}{node}")
        async with connected(settings) as connection:
            await ensure(connection, MESH, CA)
            yield connection


class Secured(Place):
    """The embedded server beyond loopback: `main` is at home, the others are outside."""

    def __init__(self, stack: AsyncExitStack, mesh: SecuredMesh, port: int) -> None:
        super().__init__(stack, disconnects(mesh.mesh))
        self.mesh = mesh
        self.port = port

    @asynccontextmanager
    async def connected(self, node: str) -> AsyncIterator[Connection]:
        party = next(one for one in self.mesh.parties.values() if one.name == node)
        async with self.mesh.connected(party, self.port, name=f"{CLIENT_NAME}{node}") as connection:
            await ensure(connection, self.mesh.mesh, self.mesh.fingerprint)
            yield connection


@pytest.fixture(params=["plain", "secured"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        if request.param == "plain":
            yield Plain(stack, stack.enter_context(NatsServer(tmp_path)))
            return
        mesh, port = SecuredMesh(tmp_path), free_port()
        for name in ("jetson", "orin"):
            mesh.party(name)
        await stack.enter_async_context(running(mesh.server(port, mesh.access())))
        yield Secured(stack, mesh, port)


async def taken(markers: NatsMarkers, within_s: float = DEADLINE_S) -> list[NatsMarker]:
    """Returns the next markers, or none if there are none in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while loop.time() < until:
        if found := await markers.fetch(0.5):
            return list(found)
    return []


# Leases that run out


async def test_a_lease_that_runs_out_is_handed_to_one_witness_once(place: Place):
    main, jetson, orin = [await place.connect(name) for name in ("main", "jetson", "orin")]
    leases = NatsBucket(jetson, LEASES)
    held = await leases.put("jetson", b"1", expected=0, ttl_s=2)
    await leases.put("jetson", b"2", expected=held, ttl_s=2)

    async def judged(connection: Connection) -> list[str]:
        found = await taken(NatsMarkers(connection), 5)
        for marker in found:
            await marker.ack()
        return [marker.node for marker in found]

    found = await asyncio.gather(*map(judged, (main, jetson, orin)))
    assert sorted(found) == [[], [], ["jetson"]]


async def test_a_marker_that_nobody_acknowledges_is_handed_to_another(place: Place):
    main, jetson = await place.connect("main"), await place.connect("jetson")
    await NatsBucket(main, LEASES).put("main", b"1", expected=0, ttl_s=1)
    (silent,) = await taken(NatsMarkers(main))
    for _ in range(3):
        await silent.working()
        assert await taken(NatsMarkers(jetson), 1) == [], "it is being worked on"
    (again,) = await taken(NatsMarkers(jetson))
    assert again.node == "main"


async def test_a_lease_that_is_given_back_did_not_run_out(place: Place):
    main, jetson = await place.connect("main"), await place.connect("jetson")
    leases = NatsBucket(jetson, LEASES)
    await leases.delete("jetson", expected=await leases.put("jetson", b"1", expected=0, ttl_s=1))
    assert await taken(NatsMarkers(main), 2) == []


async def test_all_that_was_handed_out_is_acknowledged(place: Place):
    main = await place.connect("main")
    leases = NatsBucket(main, LEASES)
    for value in range(50):
        await leases.put("main", b"%d" % value, ttl_s=10)
    markers, queue = NatsMarkers(main), NatsWorkQueue(main, STREAM, WITNESS)

    async def is_all() -> bool:
        assert await markers.fetch(0.1) == []
        return await queue.floor() == 50

    await eventually(is_all)


async def test_a_restart_of_the_server_takes_the_witness_and_its_return_brings_it_back(
    nats_server: NatsServer,
):
    async with AsyncExitStack() as stack:
        main = await Plain(stack, nats_server).connect("main")
        markers = NatsMarkers(main)
        await asyncio.to_thread(nats_server.restart)
        await main.wait_connected(DEADLINE_S)
        with pytest.raises(LogUnavailable):
            await markers.fetch(1)
        await ensure_leases(main, MESH, (CA,))
        await NatsBucket(main, LEASES).put("main", b"1", expected=0, ttl_s=1)
        assert [marker.node for marker in await taken(markers)] == ["main"]


@pytest.mark.parametrize("place", ["secured"], indirect=True)
@pytest.mark.parametrize("verb", ["CREATE", "DELETE", "PAUSE", "DURABLE.CREATE"])
async def test_a_node_may_not_make_the_shared_consumer_nor_take_it_away(place: Place, verb: str):
    main, jetson = await place.connect("main"), await place.connect("jetson")
    with pytest.raises(RightMissing):
        await call(jetson.session(), f"CONSUMER.{verb}.{SHARED}", Done)
    await call(main.session(), f"CONSUMER.INFO.{SHARED}", ConsumerInfo)


# Connections that end


async def test_every_witness_hears_of_the_end_of_a_connection_and_by_whose_name(place: Place):
    main, orin = await place.connect("main"), await place.connect("orin")
    heard: list[Ending] = []

    async def hear(connection: Connection, name: str, subject: str) -> None:
        async for ending in place.endings(connection, name).heard(subject):
            heard.append(ending)  # noqa: PERF401 - it never ends

    hearing = [
        asyncio.create_task(hear(connection, name, subject))
        for connection, name in ((main, "main"), (orin, "orin"))
        for subject in place.endings(connection, name).subjects
    ]
    async with place.connected("jetson") as jetson:
        ended = jetson.id
        shown = asyncio.create_task(place.endings(jetson, "jetson").follow(jetson.session()))
        for connection in (main, orin, jetson):
            await connection.session().client.flush()
        await NatsBucket(jetson, LEASES).put("jetson", ended.encode(), expected=0, ttl_s=10)

    async def is_all() -> bool:
        return len(heard) >= 2

    await eventually(is_all)
    await shown
    assert {(one.node, one.connection) for one in heard} == {("jetson", ended)}
    assert len(heard) == 2
    for task in hearing:
        task.cancel()


async def test_each_connection_has_a_name_of_its_own(place: Place):
    names = set()
    for _ in range(3):
        async with place.connected("jetson" if isinstance(place, Plain) else "main") as connection:
            names.add(connection.id)
    assert len(names) == 3
    assert connection.id == ""
