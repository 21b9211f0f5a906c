"""On how many servers the mesh's streams are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agents import eventually, note
from log_support import CA, DEADLINE_S, MESH
from places import Place
from servers import STREAMS, Cluster, Member

from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import ensure

ATTEMPTS_MAX = 20


async def ensured(member: Member) -> dict[str, int]:
    """Ensures the mesh's streams through one server, and returns how many replicas each has."""
    async with Connection(NatsSettings(servers=(member.url,))) as connection:
        await connection.wait_connected(DEADLINE_S)
        await ensure(connection, MESH, CA)
        session = connection.session()
        infos = [await call(session, f"STREAM.INFO.{name}", StreamInfo) for name in STREAMS]
        return {info.config["name"]: info.config["num_replicas"] for info in infos}


def replicas_through(member: Member) -> dict[str, int]:
    """Returns what the first attempt says that finds the servers ready for it."""
    with member.place.entered():
        for _ in range(ATTEMPTS_MAX):
            try:
                return asyncio.run(ensured(member))
            except LogUnavailable as error:
                note(str(error))
    pytest.fail(f"{member.name} is not ready after {ATTEMPTS_MAX} attempts:\n{member.log[-2000:]}")


def test_on_three_servers_each_stream_is_on_all_three(cluster: Cluster):
    assert replicas_through(cluster.members[0]) == dict.fromkeys(STREAMS, 3)
    cluster.whole()
    details = cluster.led().streams()
    assert {details[name]["config"]["storage"] for name in STREAMS} == {"file", "memory"}


def test_on_two_servers_they_are_on_one_and_on_three_once_a_third_has_come(
    tmp_path: Path, places: tuple[Place, ...]
):
    cluster = Cluster(tmp_path, places[:3])
    *early, late = cluster.members
    try:
        for member in early:
            member.join(early)
            member.start()
        eventually(
            lambda: len({one.meta_leader() for one in early} & {one.name for one in early}) == 1, "led"
        )
        assert replicas_through(early[0]) == dict.fromkeys(STREAMS, 1)
        assert replicas_through(early[1]) == dict.fromkeys(STREAMS, 1)
        late.join(cluster.members)
        late.start()
        eventually(lambda: replicas_through(early[0]) == dict.fromkeys(STREAMS, 3), "all are on three")
        cluster.whole()
    finally:
        for member in cluster.members:
            member.kill()


def test_a_server_that_is_away_reduces_nothing(cluster: Cluster):
    assert replicas_through(cluster.members[0]) == dict.fromkeys(STREAMS, 3)
    cluster.whole()
    away = cluster.followers()[0]
    away.kill()
    left = cluster.running[0]
    assert replicas_through(left) == dict.fromkeys(STREAMS, 3)


def test_servers_that_are_still_finding_one_another_end_on_three_at_once(
    tmp_path: Path, places: tuple[Place, ...]
):
    cluster = Cluster(tmp_path, places[:3])
    try:
        for member in cluster.members:
            member.start()
        assert replicas_through(cluster.members[0]) == dict.fromkeys(STREAMS, 3)
    finally:
        for member in cluster.members:
            member.kill()
