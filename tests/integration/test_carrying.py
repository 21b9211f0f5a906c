"""Carrying streams from a server that was alone to three that keep them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from log_support import DEADLINE_S, eventually, read_until_current
from nats_server import NatsServer
from route_hosts import RouteHosts

from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log import api, moving, topology
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import EVENTS

SUBJECT = "service.registry.updated"
FORMED_S = 20.0
CARRIED_S = 60.0
MANY = 3000
"""Events of 1 KiB: more than one window of a snapshot's pieces."""


@pytest.fixture
def hosts(tmp_path: Path) -> RouteHosts:
    return RouteHosts(tmp_path)


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[Connection]:
    with NatsServer(directory / "alone") as server:
        async with Connection(NatsSettings(servers=(server.url,))) as connection:
            await connection.wait_connected(DEADLINE_S)
            yield connection


@asynccontextmanager
async def both(hosts: RouteHosts) -> AsyncIterator[tuple[Connection, Connection]]:
    """A server that was alone and holds the mesh, and the three that hold nothing."""
    async with alone(hosts.directory) as source, hosts.running(), hosts.owner() as target:
        await hosts.ensured(source)

        async def decides() -> bool:
            try:
                return await moving.names(target.session()) == []
            except LogUnavailable:
                return False

        await eventually(decides, FORMED_S)
        yield source, target


async def tell(connection: Connection, count: int, size: int = 20) -> None:
    for number in range(count):
        await api.publish(connection.session(), SUBJECT, b"%0*d" % (size, number), {})


async def carried(source: Connection, target: Connection, stream: str) -> StreamInfo:
    """Carries a stream as an agent does, again where a server has too much to do to answer."""
    there: list[StreamInfo] = []

    async def is_there() -> bool:
        with suppress(LogUnavailable):
            there.append(await moving.carry(source.session(), target.session(), stream))
        return bool(there)

    await eventually(is_there, CARRIED_S)
    return there[0]


async def described(session: Session, stream: str) -> StreamInfo:
    return await call(session, f"STREAM.INFO.{stream}", StreamInfo)


async def test_everything_stands_where_it_stood_and_the_stream_is_the_same_one(hosts: RouteHosts):
    async with both(hosts) as (source, target):
        await tell(source, MANY, 1024)
        before = await described(source.session(), EVENTS)
        after = await carried(source, target, EVENTS)
        assert after.state == before.state
        held = await read_until_current(NatsEventLog(source).tail(0))
        assert len(held) == MANY
        assert await read_until_current(NatsEventLog(target).tail(0)) == held
        assert topology.bounds_of(after) == topology.bounds_of(before)


async def test_keys_keep_their_revisions_and_the_shared_consumer_its_place(hosts: RouteHosts):
    async with both(hosts) as (source, target):
        bucket = NatsBucket(source, topology.REGISTRY)
        for number in range(3):
            await bucket.put("a.key", b"%d" % number)
        await tell(source, 5)
        for stream in (topology.bucket_stream(topology.REGISTRY), EVENTS):
            await carried(source, target, stream)
        assert await NatsBucket(target, topology.REGISTRY).get("a.key") == await bucket.get("a.key")

        async def has_consumer() -> bool:
            try:
                verb = f"CONSUMER.INFO.{EVENTS}.{topology.MATERIALISER}"
                return (await call(target.session(), verb, api.ConsumerInfo)).num_pending == 5
            except LogError:
                return False

        await eventually(has_consumer)


async def test_what_was_carried_is_on_three_servers_once_it_is_ensured(hosts: RouteHosts):
    async with both(hosts) as (source, target):
        await tell(source, 5)
        there = await carried(source, target, EVENTS)

        async def is_on_three() -> bool:
            await hosts.ensured(target)
            return (await described(target.session(), EVENTS)).config["num_replicas"] == 3

        await eventually(is_on_three, FORMED_S)
        found = await described(target.session(), EVENTS)
        assert topology.bounds_of(found) == topology.bounds_of(there)


async def test_what_was_carried_is_known_again_and_another_stream_of_the_name_too(hosts: RouteHosts):
    async with both(hosts) as (source, target):
        await tell(source, 5)
        identities = topology.bucket_stream(topology.IDENTITIES)
        assert not await moving.is_carried(source.session(), target.session(), EVENTS)
        await carried(source, target, EVENTS)
        await tell(target, 2)
        assert await moving.is_carried(source.session(), target.session(), EVENTS)
        await hosts.ensured(target)
        with pytest.raises(LogError, match="another stream"):
            await moving.is_carried(source.session(), target.session(), identities)


async def test_an_attempt_that_broke_off_does_not_keep_the_stream_from_being_carried(hosts: RouteHosts):
    async with both(hosts) as (source, target):
        await tell(source, 5)
        held = await described(source.session(), EVENTS)
        body = {"config": {**held.config, "num_replicas": 1}, "state": {}}
        await call(target.session(), f"STREAM.RESTORE.{EVENTS}", api.Done, body)  # and nothing follows
        await carried(source, target, EVENTS)
        assert (await described(target.session(), EVENTS)).state.last_seq == 5
