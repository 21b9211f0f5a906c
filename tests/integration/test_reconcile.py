"""Whatever makes the bucket or a replica say something else than the stream is found, and mended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue
from plain_nats import plain_client

from pmoves_mesh.core import records, snapshot
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.store.snapshot import SnapshotFile

MESH = "pmoves-mesh"
SETTLED_S = 20.0
WHISPER, RAG = "service.whisper.alpha.9000", "service.rag.beta.1"


@pytest.fixture(scope="module")
def seldom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose agents look for themselves so seldom that only a command finds anything."""
    with mesh_in(tmp_path_factory.mktemp("seldom")) as mesh:
        yield started(mesh)


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose agents look every second."""
    with mesh_in(tmp_path_factory.mktemp("often")) as mesh:
        yield started(mesh, PMOVES_RECONCILE_S="1")


def started(mesh: Mesh, **settings: str) -> Mesh:
    alpha, beta = (mesh.started(node, ANNOUNCE_SEC="1", **settings) for node in ("alpha", "beta"))
    gone = mesh.started("gone", **settings)
    alpha.register("whisper", port=9000)
    beta.register("rag", port=1, id="1")
    beta.register("rag", port=2, id="1")
    gone.register("left-behind", port=3)
    mesh.agree()
    gone.terminate()
    eventually(lambda: alpha.get("/api/nodes/gone").body["status"] == "left", "gone has left")
    return mesh


@asynccontextmanager
async def bucket_of(mesh: Mesh) -> AsyncIterator[KeyValue]:
    async with plain_client(mesh.server.url) as client:
        yield await client.jetstream().key_value("MESH_REGISTRY")


async def settled(bucket: KeyValue) -> None:
    """Waits until each living node has announced all that it registered, which changes the bucket."""
    async with asyncio.timeout(SETTLED_S):
        while not all([await is_told_of(bucket, node) for node in ("alpha", "beta")]):
            await asyncio.sleep(0.05)


async def is_told_of(bucket: KeyValue, node: str) -> bool:
    announced = msgspec.json.decode(records.decode(await value_of(bucket, f"node.{node}")).sealed.payload)
    try:
        every = await bucket.keys()
    except NoKeysError:  # nats-py says so too if the keys come before it has asked how many there are
        return False
    keys = [key for key in every if key.startswith("service.") and f".{node}." in key]
    held = [records.decode(await value_of(bucket, key)).stamp.revision for key in keys]
    return sorted(held) == sorted(line["revision"] for line in announced["instances"])


async def value_of(bucket: KeyValue, key: str) -> bytes:
    return (await bucket.get(key)).value or b""


def checked(agent: AgentProcess) -> dict[str, Any]:
    """Returns what `bucket check --json` says; its exit code says the same."""
    done = agent.run("bucket", "check", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["same"] else 1), done.stderr
    return report


def differences(agent: AgentProcess) -> set[tuple[str, str, str]]:
    return {(one["key"], one["place"], one["problem"]) for one in checked(agent)["differences"]}


async def spoil(bucket: KeyValue) -> dict[str, bytes]:
    """Does every kind of harm to a bucket, and returns what it held before."""
    keys = (WHISPER, RAG, "node.alpha", "node.gone", "service.left-behind.gone.3")
    before = {key: await value_of(bucket, key) for key in keys}
    older = next(entry.value for entry in await bucket.history(RAG) if entry.value)
    assert older == before[RAG]
    await bucket.delete(WHISPER)
    await bucket.put(RAG, b"junk")
    await bucket.put("node.alpha", before["node.gone"])
    # Of a node that announces itself no more, since a manifest removes what it does not list.
    await bucket.put("service.invented.gone.1", before[WHISPER])
    await bucket.delete("service.left-behind.gone.3")
    await bucket.delete("node.gone")
    return before


async def test_a_sound_mesh_has_no_differences_and_an_agent_that_is_down_is_left_out(seldom: Mesh):
    alpha, gone = seldom.agents["alpha"], seldom.agents["gone"]
    eventually(lambda: checked(alpha)["same"], "nothing differs")
    report = checked(alpha)
    assert (report["replica"], report["keys"]) == (True, 6)
    done = gone.run("bucket", "check")
    assert done.returncode == 0, done.stderr
    assert "no agent answers here" in done.stdout


async def test_each_kind_of_difference_is_found_by_its_key_and_a_rebuild_mends_all(seldom: Mesh):
    alpha = seldom.agents["alpha"]
    async with bucket_of(seldom) as bucket:
        await settled(bucket)
        before = await spoil(bucket)
        assert differences(alpha) == {
            (WHISPER, "bucket", "missing"),
            (RAG, "bucket", "unreadable"),
            ("node.alpha", "bucket", "unproved"),
            ("service.invented.gone.1", "bucket", "unproved"),
            ("service.left-behind.gone.3", "bucket", "missing"),
            ("node.gone", "bucket", "missing"),
        }
        done = alpha.run("bucket", "check")
        assert done.returncode == 1
        assert "6 differ" in done.stderr
        assert done.stderr.count("\n") == 1
        assert alpha.run("bucket", "rebuild").returncode == 0
        assert checked(alpha)["same"]
        assert {key: await value_of(bucket, key) for key in before} == before


async def test_an_older_record_is_found_and_replaced(seldom: Mesh):
    alpha = seldom.agents["alpha"]
    async with bucket_of(seldom) as bucket:
        older = await value_of(bucket, WHISPER)
        position = alpha.register("whisper", port=9000, metadata={"run": 2}).position
        eventually(
            lambda: checked(alpha)["position"] >= position and checked(alpha)["same"], "all is written"
        )
        await settled(bucket)
        newer = await value_of(bucket, WHISPER)
        assert newer != older
        await bucket.put(WHISPER, older)
        assert differences(alpha) == {(WHISPER, "bucket", "older")}
        assert alpha.run("bucket", "rebuild").returncode == 0
        assert await value_of(bucket, WHISPER) == newer


async def test_the_agents_mend_the_bucket_by_themselves_and_count_it(often: Mesh):
    alpha, beta = often.agents["alpha"], often.agents["beta"]
    eventually(lambda: checked(alpha)["same"], "nothing differs")
    async with bucket_of(often) as bucket:
        before = await spoil(bucket)
        eventually(lambda: checked(alpha)["same"], "the bucket was mended", 60)
        assert "left-behind" in alpha.names()
        for key in ("node.gone", "service.left-behind.gone.3"):
            assert await value_of(bucket, key) == before[key]

    def repaired() -> int:
        return sum(
            agent.registry["repairs"][kind] for agent in (alpha, beta) for kind in ("bucket", "restated")
        )

    assert repaired() >= 4
    assert alpha.registry["repairs"]["bucket"] + beta.registry["repairs"]["bucket"] > 0


def edit_snapshot(agent: AgentProcess, key: InstanceKey) -> None:
    """Takes an instance out of what a stopped agent remembers."""
    file = SnapshotFile(agent.data_dir / "snapshot.db")
    stored = file.load()
    assert stored is not None
    registry = snapshot.load(stored.blob, MESH)
    registry.drop(key)
    file.save(
        type(stored)(position=stored.position, stream_id=stored.stream_id, blob=snapshot.dump(registry, MESH))
    )


async def test_a_replica_that_lost_an_instance_fetches_it_after_the_owners_next_announcement(often: Mesh):
    alpha = often.agents["alpha"]
    often.agree()
    alpha.terminate()
    edit_snapshot(alpha, InstanceKey("rag", "beta", "1"))
    alpha.restart()
    eventually(lambda: "rag" in alpha.names(), "alpha knows it again")
    assert alpha.registry["repairs"]["fetched"] >= 1
    eventually(lambda: checked(alpha)["same"], "nothing differs")


@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_a_spoilt_snapshot_is_set_aside_and_made_anew_from_the_bucket(often: Mesh, how: str):
    alpha = often.agents["alpha"]
    often.agree()
    names = set(alpha.names())
    alpha.terminate()
    path = alpha.data_dir / "snapshot.db"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"no database" * 1000)
    alpha.restart()
    (line,) = alpha.logged("snapshot set aside")
    assert line["path"] == str(path.with_name("snapshot.db.damaged"))
    assert path.with_name("snapshot.db.damaged").exists()
    assert alpha.logged("booted from the bucket")
    assert set(alpha.names()) == names


def test_what_an_agent_holds_too_much_goes_with_the_owners_next_announcement(often: Mesh):
    alpha = often.agents["alpha"]
    often.agree()
    alpha.terminate()
    file = SnapshotFile(alpha.data_dir / "snapshot.db")
    stored = file.load()
    assert stored is not None
    registry = snapshot.load(stored.blob, MESH)
    entry = registry.entry(InstanceKey("rag", "beta", "1"))
    assert entry is not None
    registry.put(replace(entry, record=msgspec.structs.replace(entry.record, name="ghost")))
    blob = snapshot.dump(registry, MESH)
    file.save(type(stored)(position=stored.position, stream_id=stored.stream_id, blob=blob))
    alpha.restart()
    eventually(lambda: "ghost" not in alpha.names(), "it is dropped")
    assert alpha.registry["repairs"]["dropped"] >= 1
