"""Who may be one of several nats-servers that keep a mesh's streams together, and who may log in there."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from log_support import DEADLINE_S, eventually
from route_hosts import NAMES, RouteHosts
from secured import CLOCK, Party, SecuredMesh, running

from pmoves_mesh.core.names import JETSTREAM_API
from pmoves_mesh.errors import LogError, LogUnavailable, StartError
from pmoves_mesh.log import replication, topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.door import GuestDoor
from pmoves_mesh.server.process import EmbeddedServer, Secured

FORMED_S = 20.0


@pytest.fixture
def hosts(tmp_path: Path) -> RouteHosts:
    return RouteHosts(tmp_path)


async def formed(hosts: RouteHosts) -> None:
    """Waits until the mesh's streams are on all three servers."""
    async with hosts.owner() as connection:

        async def whole() -> bool:
            try:
                await hosts.ensured(connection)
                session = connection.session()
                return all([await replication.is_whole(session, f"KV_{one}") for one in (topology.REGISTRY,)])
            except LogError:
                return False

        await eventually(whole, FORMED_S)


async def test_three_servers_with_the_keys_of_the_named_nodes_keep_the_streams_together(hosts: RouteHosts):
    async with hosts.running():
        await formed(hosts)


async def test_every_member_may_log_in_at_every_server(hosts: RouteHosts):
    delta = hosts.mesh.party("delta")
    async with hosts.running():
        await formed(hosts)
        for party in (hosts.nodes["beta"], delta):
            for name in NAMES:
                async with hosts.mesh.connected(party, hosts.clients[name]) as connection:
                    bucket = NatsBucket(connection, topology.REGISTRY)
                    key = f"{party.name}.{name}"
                    await bucket.put(key, b"value", expected=0)
                    entry = await bucket.get(key)
                    assert entry is not None
                    assert entry.value == b"value"


async def test_a_member_who_is_revoked_is_shut_out_of_every_server(hosts: RouteHosts):
    delta = hosts.mesh.party("delta")
    async with hosts.running() as servers:
        await formed(hosts)
        left = [party for party in hosts.mesh.parties.values() if party is not delta]
        for name, server in servers.items():
            async with hosts.mesh.connected(delta, hosts.clients[name]) as connection:
                lost = connection.session().lost
                await server.admit(hosts.mesh.access(*left))
                async with asyncio.timeout(DEADLINE_S):
                    await lost.wait()


async def stays_out(hosts: RouteHosts, name: str, party: Party, access: Access) -> None:
    """Checks that a server which tries to be one of them is turned away by all, and stays alone."""
    before = {other: turned_away(hosts, other) for other in NAMES}
    # It trusts everybody, and says that it is one of them.
    intruder = hosts.server(name, party, access, nodes=(*NAMES, name))
    await intruder.start()
    try:

        async def refused() -> bool:
            return all(turned_away(hosts, other) > before[other] for other in NAMES)

        await eventually(refused, FORMED_S)
        async with hosts.mesh.connected(party, hosts.clients[name]) as connection:
            with pytest.raises(LogError):
                await topology.peek(connection)  # which any server of the cluster answers
    finally:
        await intruder.stop()


def turned_away(hosts: RouteHosts, name: str) -> int:
    """Returns how often a server refused to be connected with another, as its log tells."""
    return hosts.log(name).count("TLS route handshake error") + hosts.log(name).count("is not pinned")


async def test_another_member_of_the_mesh_cannot_be_a_route(hosts: RouteHosts):
    delta = hosts.mesh.party("delta")
    async with hosts.running():
        await formed(hosts)
        await stays_out(hosts, "delta", delta, hosts.mesh.access())


async def test_the_route_of_a_node_that_is_revoked_is_cut(hosts: RouteHosts):
    async with hosts.running() as servers:
        await formed(hosts)
        gone = hosts.nodes["gamma"]
        left = [party for party in hosts.mesh.parties.values() if party is not gone]
        for name in ("main", "beta"):
            await servers[name].admit(hosts.mesh.access(*left))
        async with hosts.owner("gamma") as connection:

            async def alone() -> bool:
                bucket = NatsBucket(connection, topology.REGISTRY)
                try:
                    await bucket.put("by.gamma", b"value")
                except LogUnavailable:
                    return True
                return False

            await eventually(alone, FORMED_S)
        async with hosts.owner("main") as connection:
            bucket = NatsBucket(connection, topology.REGISTRY)

            async def goes_on() -> bool:
                try:
                    await bucket.put("by.main", b"value")
                except LogUnavailable:
                    return False
                return True

            await eventually(goes_on, FORMED_S)
            assert await bucket.get("by.gamma") is None


async def test_a_server_of_a_cluster_does_not_go_on_alone_with_nothing(hosts: RouteHosts):
    async with hosts.running():
        await formed(hosts)
    owner, access = hosts.mesh.owner, hosts.mesh.access()
    secured = Secured(
        host="127.0.0.1",
        mesh=hosts.mesh.mesh,
        certificate=owner.certificate,
        key=owner.key,
        access=access,
    )
    alone = EmbeddedServer(locate(os.environ), hosts.home("main"), hosts.clients["main"], CLOCK, secured)
    with pytest.raises(StartError, match="PMOVES_NATS_CLUSTER"):
        await alone.start()


async def test_a_cluster_that_never_was_gives_a_server_its_streams_back(hosts: RouteHosts):
    owner = hosts.mesh.owner
    secured = Secured(
        host="127.0.0.1",
        mesh=hosts.mesh.mesh,
        certificate=owner.certificate,
        key=owner.key,
        access=hosts.mesh.access(),
    )
    port = hosts.clients["main"]

    def alone() -> EmbeddedServer:
        return EmbeddedServer(locate(os.environ), hosts.home("main"), port, CLOCK, secured)

    async with running(alone()), hosts.owner() as connection:
        await hosts.ensured(connection)
        await NatsBucket(connection, topology.REGISTRY).put("a.key", b"value")
    async with running(hosts.server("main")):
        assert (hosts.home("main") / "growing").is_dir()
    shutil.rmtree(hosts.home("main") / "nats" / "cluster")
    async with running(alone()), hosts.owner() as connection:
        assert await NatsBucket(connection, topology.REGISTRY).get("a.key") is not None


async def test_a_guest_is_not_let_into_one_server_of_several(hosts: RouteHosts, tmp_path: Path):
    guest = SecuredMesh(tmp_path / "guests", "guests")
    server = hosts.server("main")
    await server.start()
    try:
        door = GuestDoor(hosts.home("main") / "nats", CLOCK)
        with pytest.raises(StartError, match="one of several"):
            await door.admit(guest.guest_access())
    finally:
        await server.stop()


async def test_a_stranger_with_a_ca_of_his_own_cannot_be_a_route(hosts: RouteHosts, tmp_path: Path):
    other = SecuredMesh(tmp_path / "other")
    async with hosts.running():
        await formed(hosts)
        theirs = turned_away(hosts, "main")
        intruder = hosts.server("stranger", other.owner, other.access(), nodes=(*NAMES, "stranger"))
        await intruder.start()
        try:

            async def refused() -> bool:
                return turned_away(hosts, "main") > theirs

            await eventually(refused, FORMED_S)
            async with other.connected(
                other.owner, hosts.clients["stranger"], api_prefix=JETSTREAM_API
            ) as connection:
                with pytest.raises(LogError):
                    await topology.peek(connection)
        finally:
            await intruder.stop()
