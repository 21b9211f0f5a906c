"""`registry sync`: stream, bucket and agent are brought into step when somebody asks, not some time later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import plain_client

from pmoves_mesh.core import snapshot
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.store.snapshot import SnapshotFile

MESH = "pmoves-mesh"
SELDOM = {"ANNOUNCE_SEC": "3600", "PMOVES_RECONCILE_S": "86400"}
WHISPER, RAG = "service.whisper.alpha.9000", "service.rag.beta.1"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh whose agents look for nothing by themselves."""
    with mesh_in(tmp_path) as mesh:
        alpha, beta = (mesh.started(node, **SELDOM) for node in ("alpha", "beta"))
        alpha.register("whisper", port=9000)
        beta.register("rag", port=1, id="1")
        mesh.agree()
        yield mesh


def synced(agent: AgentProcess) -> dict[str, Any]:
    done = agent.run("registry", "sync", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def same(agent: AgentProcess) -> bool:
    return agent.run("bucket", "check").returncode == 0


def haunt(agent: AgentProcess) -> None:
    """Puts an instance that nobody registered into what a stopped agent remembers, and takes one out."""
    file = SnapshotFile(agent.data_dir / "snapshot.db")
    stored = file.load()
    assert stored is not None
    registry = snapshot.load(stored.blob, MESH)
    key = InstanceKey("rag", "beta", "1")
    entry = registry.entry(key)
    assert entry is not None
    registry.put(replace(entry, record=msgspec.structs.replace(entry.record, name="ghost")))
    registry.drop(key)
    blob = snapshot.dump(registry, MESH)
    file.save(type(stored)(position=stored.position, stream_id=stored.stream_id, blob=blob))


def test_where_nothing_differs_nothing_is_changed(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    done = synced(alpha)
    assert (done["written"], done["deleted"], done["replica"], done["restated"]) == (0, 0, 0, 0)
    assert done["left"] == []
    assert done["position"] == alpha.get("/api/status").position


async def test_a_bucket_that_lost_keys_and_holds_spoilt_ones_is_written_anew(mesh: Mesh):
    async with plain_client(mesh.server.url) as client:
        bucket = await client.jetstream().key_value("MESH_REGISTRY")
        await bucket.delete(WHISPER)
        await bucket.put(RAG, b"nonsense")
    assert not same(mesh.agents["alpha"])
    assert synced(mesh.agents["beta"])["written"] == 2
    assert same(mesh.agents["alpha"])


def test_an_agent_that_remembers_what_never_was_is_made_anew_and_serves_meanwhile(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    alpha.terminate()
    haunt(alpha)
    alpha.restart()
    assert "ghost" in alpha.names()
    assert "rag" not in alpha.names()
    assert synced(alpha)["replica"] == 2
    assert sorted(alpha.names()) == ["rag", "whisper"]
    assert same(alpha)


async def test_what_the_stream_lost_of_this_node_is_stated_again(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    async with plain_client(mesh.server.url) as client:
        stream = client.jetstream()
        await stream.delete_stream("MESH_EVENTS")
    eventually(lambda: alpha.run("registry", "sync").returncode == 0, "it is in step again")
    mesh.agree()
    assert sorted(alpha.names()) == ["rag", "whisper"]
    eventually(lambda: same(alpha), "nothing differs")


def test_while_nats_is_away_it_says_so_and_changes_nothing(mesh: Mesh):
    mesh.server.kill()
    alpha = mesh.agents["alpha"]
    eventually(lambda: not alpha.is_ready(), "alpha has noticed")
    done = alpha.run("registry", "sync")
    assert done.returncode == 1
    assert "there is nothing to compare" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_without_an_agent_the_bucket_alone_is_mended(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    alpha.terminate()
    async with plain_client(mesh.server.url) as client:
        await (await client.jetstream().key_value("MESH_REGISTRY")).delete(RAG)
    done = alpha.run("registry", "sync")
    assert done.returncode == 0, done.stderr
    assert "1 in the bucket; no agent answers here" in done.stdout
