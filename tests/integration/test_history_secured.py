"""The past on a secured mesh: nodes keep and read checkpoints with the rights that they have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ports import free_port
from secured import CLOCK, SecuredMesh, running

from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.errors import LogError
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.checkpoints import NatsCheckpoints
from pmoves_mesh.log.past import NatsPast
from pmoves_mesh.log.topology import ensure

PLACE = Place(position=8, time_ms=CLOCK.now_ms(), stream_id="2026-01-01T00:00:00Z")
DATA = bytes(range(256)) * 2000


async def test_a_node_keeps_reads_and_removes_checkpoints_and_reads_the_past(tmp_path: Path):
    mesh, port = SecuredMesh(tmp_path), free_port()
    jetson, orin = mesh.party("jetson"), mesh.party("orin")
    async with (
        running(mesh.server(port, mesh.access())),
        mesh.connected(mesh.owner, port) as owner,
        mesh.connected(jetson, port) as one,
        mesh.connected(orin, port) as other,
    ):
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        assert await ensure(one, mesh.mesh, mesh.fingerprint)
        assert await NatsCheckpoints(one).write(PLACE, DATA)
        for connection in (other, owner):
            checkpoints = NatsCheckpoints(connection)
            assert list(await checkpoints.listed()) == [PLACE]
            assert await checkpoints.read(PLACE) == DATA
            assert (await NatsPast(connection).kept()).last == 0
        reader = NatsCheckpoints(other)
        await reader.listed()
        await reader.delete(PLACE)
        async with asyncio.timeout(10):
            while await NatsCheckpoints(owner).listed():
                await asyncio.sleep(0.05)


async def test_a_service_neither_keeps_nor_reads_them(tmp_path: Path):
    mesh, port = SecuredMesh(tmp_path), free_port()
    whisper = mesh.party("whisper", "service")
    async with (
        running(mesh.server(port, mesh.access())),
        mesh.connected(mesh.owner, port) as owner,
        mesh.connected(whisper, port) as service,
    ):
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        with pytest.raises(LogError):
            await NatsCheckpoints(service).write(PLACE, DATA)
        with pytest.raises(LogError):
            await NatsCheckpoints(service).listed()
        info = await call(owner.session(), "STREAM.INFO.OBJ_MESH_CHECKPOINTS", StreamInfo)
        assert info.state.messages == 0


async def test_the_store_is_as_the_decision_says(tmp_path: Path):
    mesh, port = SecuredMesh(tmp_path), free_port()
    async with running(mesh.server(port, mesh.access())), mesh.connected(mesh.owner, port) as owner:
        await ensure(owner, mesh.mesh, mesh.fingerprint, max_age_s=3600, max_bytes=2**20)
        config = (await call(owner.session(), "STREAM.INFO.OBJ_MESH_CHECKPOINTS", StreamInfo)).config
    assert config["subjects"] == ["$O.MESH_CHECKPOINTS.C.>", "$O.MESH_CHECKPOINTS.M.>"]
    assert (config["storage"], config["discard"]) == ("file", "old")
    assert (config["max_age"], config["max_bytes"]) == (3600 * 10**9, 2**20)
    assert config["metadata"]["mesh"] == mesh.mesh
