"""What a node with a genuine identity can do to the others, and what it cannot."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from plain_nats import STREAM, plain_client, publish

from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import Event, InstanceExpired, NodeAnnounced, NodeLost
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity

MESH = "pmoves-mesh"
REFUTED_WITHIN_S = 2.0
REVISION_MAX = 2**62
AHEAD_MAX_MS = envelope.AHEAD_MAX_MS
MIB = 1 << 20


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        yield mesh


def identity_of(agent: AgentProcess) -> Identity:
    now_ms = SystemClock().now_ms()
    return keystore.open_identity(
        agent.data_dir / IDENTITY_DIR, agent.tls_dir, MESH, agent.node, ("127.0.0.1",), now_ms
    )


async def say(mesh: Mesh, *sealed: SealedEvent) -> int:
    """Publishes as a node's own program could, past its agent; returns the last position."""
    position = 0
    async with plain_client(mesh.server.url) as client:
        for one in sealed:
            position = await publish(client, one.subject, one.payload, one.headers)
    return position


def lost(incarnation: int, node: str = "alpha") -> NodeLost:
    return NodeLost(
        mesh=MESH, node=node, incarnation=incarnation, revision=REVISION_MAX, witness="beta", reason="a lie"
    )


def falsely_sealed(event: Event, witness: AgentProcess) -> SealedEvent:
    return envelope.seal(event, identity_of(witness), message_id=f"lie-{time.perf_counter_ns()}")


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    agent = mesh.started("alpha", ANNOUNCE_SEC="3600")
    agent.register("whisper", port=9000, capabilities=["stt"])
    return agent


@pytest.fixture
def beta(mesh: Mesh, alpha: AgentProcess) -> AgentProcess:
    agent = mesh.started("beta", ANNOUNCE_SEC="3600")
    mesh.agree()
    assert alpha.is_running
    return agent


async def test_a_node_that_is_declared_lost_with_the_highest_stamp_is_discoverable_again_in_two_seconds(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    for _ in range(3):
        highest = SystemClock().now_ms() + AHEAD_MAX_MS - 50
        position = await say(mesh, falsely_sealed(lost(highest), beta))
        for agent in (alpha, beta):
            assert agent.get("/api/status", min_position=position).status == 200
        took_s = max(
            eventually(lambda a=agent: discovers(a, "stt"), "alpha refutes its loss", REFUTED_WITHIN_S)
            for agent in (alpha, beta)
        )
        note(f"refuted after {took_s:.2f} s")
    assert beta.registry["rejected"] == {}
    assert beta.get("/api/nodes/alpha").body["status"] == "alive"
    assert alpha.registry["gaps"] == beta.registry["gaps"] == 0


def discovers(agent: AgentProcess, capability: str) -> bool:
    found = agent.post("/api/discover", [capability]).body["services"]
    return any(one["node_status"] == "alive" for one in found)


async def test_a_loss_from_beyond_any_clock_is_refused(mesh: Mesh, alpha: AgentProcess, beta: AgentProcess):
    beyond = SystemClock().now_ms() + AHEAD_MAX_MS + 60_000
    position = await say(mesh, falsely_sealed(lost(beyond), beta), falsely_sealed(lost(2**62), beta))
    for agent in (alpha, beta):
        assert agent.get("/api/status", min_position=position).status == 200
        assert agent.registry["rejected"] == {"ahead_of_time": 2}
        assert discovers(agent, "stt")


async def test_an_expiry_that_a_node_makes_up_is_taken_back_by_the_owner(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    highest = SystemClock().now_ms() + AHEAD_MAX_MS - 1000
    made_up = InstanceExpired(
        mesh=MESH,
        node="alpha",
        incarnation=highest,
        revision=REVISION_MAX,
        service="whisper",
        id=alpha.get("/api/services/whisper").body["id"],
        witness="beta",
    )
    position = await say(mesh, falsely_sealed(made_up, beta))
    for agent in (alpha, beta):
        assert agent.get("/api/status", min_position=position).status == 200
        eventually(lambda a=agent: discovers(a, "stt"), "alpha takes it back", REFUTED_WITHIN_S)


async def test_a_node_that_floods_the_stream_takes_nothing_from_anybodys_registry(mesh: Mesh):
    settings = {"PMOVES_STREAM_MAX_BYTES": str(MIB), "ANNOUNCE_SEC": "3600"}
    alpha, beta = (mesh.started(node, **settings) for node in ("alpha", "beta"))
    for number in range(10):
        alpha.register(f"of-alpha-{number}", port=number, capabilities=["kept"])
    beta.register("of-beta", port=1, capabilities=["kept"])
    mesh.agree()
    # An announcement said again and again, as no agent says it: each stays, and is as large as may be.
    own = identity_of(beta)
    announced = NodeAnnounced(
        mesh=MESH,
        node="beta",
        incarnation=1,
        revision=1,
        host="10.0.0.2",
        resources={"ballast": "x" * 100_000},
    )
    flood = [envelope.seal(announced, own, message_id=f"flood-{number}") for number in range(60)]
    position = await say(mesh, *flood)
    async with plain_client(mesh.server.url) as client:
        state = (await client.jetstream().stream_info(STREAM)).state
        assert state.first_seq > 20, "the stream dropped what was said before the flood"
        assert state.last_seq == position
        async with asyncio.timeout(30):
            while (await client.jetstream().consumer_info(STREAM, "materialiser")).num_pending:
                await asyncio.sleep(0.02)
    wanted = {"of-beta", *(f"of-alpha-{number}" for number in range(10))}
    gamma = mesh.started("gamma", **settings)
    for agent in (alpha, beta, gamma):
        assert agent.get("/api/status", min_position=position).status == 200
        assert set(agent.names()) == wanted
        assert agent.post("/api/discover", ["kept"]).body["count"] == len(wanted)
    assert all(one["verified"] for one in gamma.get("/api/services").body["services"])
    mesh.agree()


async def test_a_node_cannot_evict_revoke_or_rotate_under_any_name(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    own = identity_of(beta)
    now_ms = SystemClock().now_ms()
    head = f'"mesh":"{MESH}","incarnation":{now_ms},"revision":1'
    claims = {
        "service.registry.evicted": f'{{"type":"evicted",{head},"node":"alpha","service":"whisper"',
        "mesh.trust.revoked.v1": f'{{"type":"mesh.trust.revoked.v1",{head},"node":"x","fingerprints":[]',
        "mesh.trust.rotated.v1": f'{{"type":"mesh.trust.rotated.v1",{head},"node":"x","roots":["pem"]',
    }
    said = []
    for subject, claim in claims.items():
        for operator in ("beta", "alpha"):
            payload = f'{claim},"operator":"{operator}"}}'.encode()
            said.append(raw(subject, payload, own))
    position = await say(mesh, *said)
    for agent in (alpha, beta):
        assert agent.get("/api/status", min_position=position).status == 200
        assert agent.registry["rejected"] == {"not_entitled": 6}
        assert discovers(agent, "stt")


def raw(subject: str, payload: bytes, identity: Identity) -> SealedEvent:
    """Returns any bytes, rightly signed."""
    event = NodeAnnounced(mesh=MESH, node="beta", incarnation=1, revision=1, host="h")
    name = f"raw-{time.perf_counter_ns()}"
    sealed = envelope.seal(event, identity, message_id=name)
    statement = envelope._statement(sealed.headers[envelope.FORMAT], MESH, subject, name, payload)
    signature = base64.b64encode(identity.sign(statement)).decode()
    return SealedEvent(
        subject=subject, payload=payload, headers={**sealed.headers, envelope.SIGNATURE: signature}
    )
