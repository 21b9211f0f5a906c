"""The registry bucket: what a late agent boots from, what can be made anew, what proves itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from cryptography import x509
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from plain_nats import STREAM, plain_client, read_stream

from pmoves_mesh.agent import rebuild
from pmoves_mesh.config import load
from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import RemoteProtocolError

MATERIALISER = "materialiser"
HANDED_OUT_AGAIN_WITHIN_S = 60.0
WRITES_ARRIVE_WITHIN_S = 3.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha")


@pytest.fixture
def beta(mesh: Mesh, alpha: AgentProcess) -> AgentProcess:
    assert alpha.is_running
    return mesh.started("beta")


async def bucket_of(client: Client, name: str) -> KeyValue:
    return await client.jetstream().key_value(name)


async def values_of(client: Client, name: str = "MESH_REGISTRY") -> dict[str, bytes]:
    """Returns every key of a bucket with its value, read one by one as any program would."""
    bucket = await bucket_of(client, name)
    listing = await client.jetstream().stream_info(f"KV_{name}", subjects_filter=">")
    begin = len(f"$KV.{name}.")
    values: dict[str, bytes] = {}
    for subject in listing.state.subjects or {}:
        with contextlib.suppress(KeyNotFoundError):
            values[subject[begin:]] = (await bucket.get(subject[begin:])).value or b""
    return values


async def wait_complete(client: Client, within_s: float = 30.0) -> int:
    """Waits until everything in the stream was handed out and acknowledged; returns the position."""
    jetstream = client.jetstream()
    deadline = time.perf_counter() + within_s
    while True:
        last = (await jetstream.stream_info(STREAM)).state.last_seq
        shared = await jetstream.consumer_info(STREAM, MATERIALISER)
        if not shared.num_pending and not shared.num_ack_pending:
            return last
        assert time.perf_counter() < deadline, f"the bucket is not complete within {within_s:g} s: {shared}"
        await asyncio.sleep(0.02)


def fill(alpha: AgentProcess, beta: AgentProcess) -> set[str]:
    """Lets a mesh have a past: services that came, changed and went, on both nodes."""
    for number in range(10):
        alpha.register(f"of-alpha-{number}", port=number, capabilities=["common"])
        beta.register(f"of-beta-{number}", port=number, capabilities=["common"])
    for number in range(30):
        alpha.register("of-alpha-0", port=0, metadata={"run": number})
    alpha.delete("/api/services/of-alpha-9")
    beta.delete("/api/services/of-beta-9")
    beta.register("of-beta-9", port=9, capabilities=["again"])
    return {f"of-alpha-{n}" for n in range(9)} | {f"of-beta-{n}" for n in range(10)}


async def test_an_agent_that_starts_later_boots_from_the_bucket_and_not_from_the_beginning(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = fill(alpha, beta)
    async with plain_client(mesh.server.url) as client:
        position = await wait_complete(client)
        keys = len(await values_of(client))
    gamma = mesh.started("gamma")
    (line,) = gamma.logged("booted from the bucket")
    assert line["position"] >= position
    assert line["keys"] >= keys
    mesh.agree()
    assert set(gamma.names()) == names
    assert sum(gamma.registry["events"].values()) < position
    assert gamma.registry["gaps"] == 0
    assert gamma.registry["rejections"] == []


async def test_an_agent_that_starts_after_the_stream_forgot_its_beginning_still_knows_everything(mesh: Mesh):
    settings = {"PMOVES_STREAM_MAX_BYTES": str(1 << 20), "ANNOUNCE_SEC": "3600"}
    alpha = mesh.started("alpha", **settings)
    beta = mesh.started("beta", **settings)
    for number in range(5):
        alpha.register(f"old-{number}", port=number, capabilities=["old"])
    ballast = {"text": "x" * 15_000}
    async with plain_client(mesh.server.url) as client:
        for number in range(100):
            beta.register("busy", port=1, metadata={**ballast, "run": number})
        position = await wait_complete(client)
        first = (await client.jetstream().stream_info(STREAM)).state.first_seq
    assert first > 10
    gamma = mesh.started("gamma", **settings)
    (line,) = gamma.logged("booted from the bucket")
    assert line["position"] >= position
    mesh.agree()
    assert set(gamma.names()) == {"busy", *(f"old-{number}" for number in range(5))}
    assert gamma.post("/api/discover", ["old"]).body["count"] == 5
    assert gamma.get("/api/services/busy").body["metadata"]["run"] == 99
    assert all(one["verified"] for one in gamma.get("/api/services").body["services"])


async def test_a_wiped_bucket_is_rebuilt_from_the_stream_to_the_byte(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    fill(alpha, beta)
    beta.terminate()
    async with plain_client(mesh.server.url) as client:
        await wait_complete(client)
        before = await values_of(client)
        assert {"node.alpha", "node.beta", "service.of-alpha-0.alpha.0"} <= set(before)
        bucket = await bucket_of(client, "MESH_REGISTRY")
        for key in before:
            await bucket.delete(key)
        assert await values_of(client) == {}
        config = load(alpha.environment, alpha.directory)
        done = await asyncio.to_thread(rebuild.run, config)
        assert (done.keys, done.written, done.deleted) == (len(before), len(before), 0)
        assert await values_of(client) == before
        again = await asyncio.to_thread(rebuild.run, config)
        assert (again.keys, again.written, again.deleted) == (len(before), 0, 0)


async def test_what_does_not_belong_into_the_bucket_is_put_right_by_a_rebuild(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    fill(alpha, beta)
    async with plain_client(mesh.server.url) as client:
        await wait_complete(client)
        before = await values_of(client)
        bucket = await bucket_of(client, "MESH_REGISTRY")
        await bucket.put("service.of-alpha-1.alpha.1", b"no record")
        await bucket.put("service.invented.alpha.1", b"{}")
        await bucket.put("node.alpha", before["node.beta"])
        done = alpha.run("bucket", "rebuild")
        assert done.returncode == 0, done.stderr
        assert await values_of(client) == before


def roots_of(agent: AgentProcess) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((agent.tls_dir / "ca.crt").read_bytes())


def prove(trust: Trust, key: str, record: Record) -> None:
    """Checks a record as a reader with nothing but the CA and the certificates can."""
    (verified,) = envelope.unseal(
        record.sealed, trust, time_ms=record.time_ms, position=record.position, accept_unsigned=False
    )
    assert verified.verified
    about = verified.event
    assert verified.signer == f"spiffe://pmoves-mesh/node/{getattr(about, 'witness', about.node)}"
    assert verified.event.stamp == record.stamp
    assert records.key_of(verified.event) == key
    if record.ended is not None:
        prove(trust, key, record.ended)


async def test_every_record_of_the_bucket_proves_itself_to_whoever_has_the_ca(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    fill(alpha, beta)
    beta.terminate()
    async with plain_client(mesh.server.url) as client:
        await wait_complete(client)
        values = await values_of(client)
        identities = await values_of(client, "MESH_IDENTITIES")
    trust = Trust("pmoves-mesh", roots_of(alpha))
    assert {trust.admit(der).fingerprint for der in identities.values()} == set(identities)
    held = {key: records.decode(value) for key, value in values.items()}
    assert len(held) == 22
    for key, record in held.items():
        prove(trust, key, record)
    left = held["node.beta"]
    assert (left.subject, left.ended is not None) == ("mesh.node.leave.v1", True)
    forged = values["service.of-alpha-1.alpha.1"].replace(b'"common"', b'"forged"')
    with pytest.raises(RemoteProtocolError):
        prove(trust, "service.of-alpha-1.alpha.1", records.decode(forged))


async def test_what_is_acknowledged_is_in_the_bucket_at_every_moment(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    count, stops = 600, 6
    with ThreadPoolExecutor(4) as threads:
        for n in range(count):
            threads.submit(alpha.post, "/api/services", {"name": f"many-{n}", "port": n}, wait="none")
        for stop in range(stops):
            wanted = (stop + 1) * count // (stops + 2)
            eventually(lambda n=wanted: beta.get("/api/services").body["count"] > n, "they are at work")
            alpha.pause()
            beta.pause()
            async with plain_client(mesh.server.url) as client:
                floor = (await client.jetstream().consumer_info(STREAM, MATERIALISER)).ack_floor.stream_seq
                acknowledged = {
                    f"service.{json.loads(message.data)['service']}"
                    for message in await read_stream(client, "service.registry.registered")
                    if message.metadata.sequence.stream <= floor
                }
                deadline = time.perf_counter() + WRITES_ARRIVE_WITHIN_S
                while missing := acknowledged - {k.rsplit(".", 2)[0] for k in await values_of(client)}:
                    assert time.perf_counter() < deadline, missing
            alpha.resume()
            beta.resume()


async def test_an_agent_that_dies_in_the_middle_leaves_the_bucket_to_the_others(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    count = 400
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(alpha.post, "/api/services", {"name": f"many-{n}", "port": n}, wait="none")
            for n in range(count)
        ]
        eventually(lambda: beta.get("/api/services").body["count"] > count // 4, "beta is in the middle")
        beta.kill()
    assert {call.result().status for call in calls} <= {200, 202}
    eventually(lambda: alpha.registry["outbox"] == 0, "everything is in the stream")
    begin = time.perf_counter()
    async with plain_client(mesh.server.url) as client:
        await wait_complete(client, HANDED_OUT_AGAIN_WITHIN_S)
        values = await values_of(client)
    note(f"the bucket was complete {time.perf_counter() - begin:.1f} s after the last event")
    assert {key for key in values if key.startswith("service.")} == {
        f"service.many-{n}.alpha.{n}" for n in range(count)
    }
    trust = Trust("pmoves-mesh", roots_of(alpha))
    async with plain_client(mesh.server.url) as client:
        for der in (await values_of(client, "MESH_IDENTITIES")).values():
            trust.admit(der)
    for key, value in values.items():
        prove(trust, key, records.decode(value))
