"""Messages that must not be believed: each is counted under its reason, skipped, and logged sparingly."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import ANNOUNCE, plain_client, publish, read_stream

from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope, wire
from pmoves_mesh.core.names import EVENT_BYTES_MAX
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity

MESH = "pmoves-mesh"
REGISTERED = "service.registry.registered"
COPIES = 3
LOG_AGAIN_AFTER_S = 60


@dataclass(frozen=True)
class Message:
    """What a hostile or broken program sends."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def signer(self) -> str:
        return self.headers.get(envelope.SIGNER, "unsigned")


@dataclass(frozen=True)
class Cast:
    """Who may be speaking: beta, which is genuine, and a node of that name under another CA."""

    beta: Identity
    foreign: Identity
    stranger: Identity
    genuine: Message


def held_identity(data_dir: Path, tls_dir: Path, node: str) -> Identity:
    now_ms = SystemClock().now_ms()
    return keystore.open_identity(data_dir / IDENTITY_DIR, tls_dir, MESH, node, ("127.0.0.1",), now_ms)


def foreign_identity(directory: Path, node: str) -> Identity:
    keystore.ensure_authority(directory / "tls", MESH, SystemClock().now_ms())
    return held_identity(directory, directory / "tls", node)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("alpha").register("genuine", host="10.0.0.1", port=80)
        mesh.started("beta")
        mesh.agree()
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture(scope="module")
def cast(mesh: Mesh) -> Cast:
    beta = mesh.agents["beta"]
    foreign = foreign_identity(mesh.directory / "foreign", "beta")

    async def show_and_find() -> Message:
        async with plain_client(mesh.server.url) as client:
            identities = await client.jetstream().key_value("MESH_IDENTITIES")
            await identities.put(foreign.fingerprint, foreign.certificate_der)
            (registered,) = await read_stream(client, REGISTERED)
        return Message(registered.subject, registered.data, dict(registered.headers or {}))

    return Cast(
        beta=held_identity(beta.data_dir, beta.tls_dir, "beta"),
        foreign=foreign,
        stranger=foreign_identity(mesh.directory / "stranger", "beta"),
        genuine=asyncio.run(show_and_find()),
    )


def signed(
    identity: Identity, subject: str, said: dict[str, Any] | bytes, *, version: str = wire.FORMAT
) -> Message:
    """Returns a message whose signature is right, whatever its payload is."""
    payload = said if isinstance(said, bytes) else json.dumps(said).encode()
    name = f"{subject}.{SystemClock().monotonic_s()}"
    statement = envelope._statement(version, MESH, subject, name, payload)
    headers = {
        envelope.MESSAGE_ID: name,
        envelope.FORMAT: version,
        envelope.SIGNER: identity.fingerprint,
        envelope.SIGNATURE: base64.b64encode(identity.sign(statement)).decode(),
    }
    return Message(subject, payload, headers)


def announcement(node: str = "beta", **fields: Any) -> dict[str, Any]:
    head = {"mesh": MESH, "node": node, "incarnation": 2**60, "revision": 1}
    return {"type": ANNOUNCE, **head, "host": "6.6.6.6", **fields}


def with_signature(message: Message, change: Callable[[str], str]) -> Message:
    headers = {**message.headers, envelope.SIGNATURE: change(message.headers[envelope.SIGNATURE])}
    return Message(message.subject, message.payload, headers)


def renamed(message: Message) -> dict[str, str]:
    return {**message.headers, envelope.MESSAGE_ID: f"again-{SystemClock().monotonic_s()}"}


CASES: dict[str, tuple[str, Callable[[Cast], Message]]] = {
    "an announcement without a signature": (
        "unsigned",
        lambda _: Message(ANNOUNCE, json.dumps(announcement()).encode(), {}),
    ),
    "a registration without a signature": (
        "unsigned",
        lambda cast: Message(REGISTERED, cast.genuine.payload, {}),
    ),
    "a revocation without a signature": (
        "unsigned",
        lambda _: Message("mesh.trust.revoked.v1", b'{"fingerprints": []}', {}),
    ),
    "no JSON under a right signature": (
        "malformed",
        lambda cast: signed(cast.beta, ANNOUNCE, b'{"type": "mesh.node'),
    ),
    "bytes that are no text under a right signature": (
        "malformed",
        lambda cast: signed(cast.beta, REGISTERED, b"\xff\x00\xfe"),
    ),
    "nothing at all under a right signature": ("malformed", lambda cast: signed(cast.beta, ANNOUNCE, b"")),
    "a field out of bounds under a right signature": (
        "malformed",
        lambda cast: signed(cast.beta, ANNOUNCE, announcement(port=70000)),
    ),
    "nesting without end under a right signature": (
        "malformed",
        lambda cast: signed(cast.beta, ANNOUNCE, b'{"resources":' + b"[" * 100_000),
    ),
    "an announcement on the subject of a leave": (
        "malformed",
        lambda cast: signed(cast.beta, "mesh.node.leave.v1", announcement()),
    ),
    "more bytes than an event may have": (
        "too_large",
        lambda cast: signed(cast.beta, ANNOUNCE, b'"%b"' % (b"x" * EVENT_BYTES_MAX)),
    ),
    "the right signature of a foreign CA's node": (
        "untrusted_issuer",
        lambda cast: signed(cast.stranger, ANNOUNCE, announcement()),
    ),
    "the same with its certificate shown in the mesh": (
        "untrusted_issuer",
        lambda cast: signed(cast.foreign, ANNOUNCE, announcement()),
    ),
    "a genuine node that speaks for another": (
        "not_entitled",
        lambda cast: signed(cast.beta, ANNOUNCE, announcement("alpha")),
    ),
    "a genuine node that says that another leaves": (
        "not_entitled",
        lambda cast: signed(
            cast.beta, "mesh.node.leave.v1", {**announcement("alpha"), "type": "mesh.node.leave.v1"}
        ),
    ),
    "a genuine node that plays the operator": (
        "not_entitled",
        lambda cast: signed(
            cast.beta,
            "service.registry.evicted",
            {**announcement("alpha"), "type": "evicted", "service": "genuine", "operator": "beta"},
        ),
    ),
    "a signature that lost its end": (
        "bad_signature",
        lambda cast: with_signature(
            signed(cast.beta, ANNOUNCE, announcement()), lambda text: text[: len(text) // 8 * 4]
        ),
    ),
    "a signature cut in the middle of a group": (
        "malformed",
        lambda cast: with_signature(signed(cast.beta, ANNOUNCE, announcement()), lambda text: text[:-3]),
    ),
    "a signature that is empty": (
        "bad_signature",
        lambda cast: with_signature(signed(cast.beta, ANNOUNCE, announcement()), lambda _: ""),
    ),
    "a genuine event with one letter changed": (
        "bad_signature",
        lambda cast: Message(
            REGISTERED, cast.genuine.payload.replace(b"10.0.0.1", b"10.0.0.2"), renamed(cast.genuine)
        ),
    ),
    "a genuine event replayed on another subject": (
        "bad_signature",
        lambda cast: Message("service.registry.deregistered", cast.genuine.payload, renamed(cast.genuine)),
    ),
    "a genuine event replayed under another message id": (
        "bad_signature",
        lambda cast: Message(REGISTERED, cast.genuine.payload, renamed(cast.genuine)),
    ),
    "an unknown kind of registry event": (
        "unknown_kind",
        lambda cast: signed(cast.beta, "service.registry.foo", announcement()),
    ),
    "an unknown kind of node event": (
        "unknown_kind",
        lambda cast: signed(cast.beta, "mesh.node.foo.v1", announcement()),
    ),
    "an unknown kind of trust event": (
        "unknown_kind",
        lambda cast: signed(cast.beta, "mesh.trust.foo.v1", announcement()),
    ),
    "a newer major format": (
        "unsupported_version",
        lambda cast: signed(cast.beta, ANNOUNCE, announcement(), version="2.0"),
    ),
    "a version that is none": (
        "malformed",
        lambda cast: signed(cast.beta, ANNOUNCE, announcement(), version="soon"),
    ),
    "an event of another mesh": (
        "foreign_mesh",
        lambda cast: signed(cast.beta, ANNOUNCE, {**announcement(), "mesh": "elsewhere"}),
    ),
    "a signer that is no fingerprint": (
        "malformed",
        lambda _: Message(ANNOUNCE, b"{}", {envelope.SIGNER: ">", envelope.SIGNATURE: "AAAA"}),
    ),
}


def registry_of(agent: AgentProcess) -> list[dict[str, Any]]:
    """Returns all that an agent believes, but for when it last heard of a node."""
    nodes, services = agent.get("/api/nodes").body["nodes"], agent.get("/api/services").body["services"]
    return [{k: v for k, v in each.items() if k != "last_seen"} for each in (*nodes, *services)]


def rejected_after(agent: AgentProcess, position: int) -> Counter[str]:
    assert agent.get("/api/services", min_position=position).status == 200
    return Counter(agent.registry["rejected"])


@pytest.mark.parametrize("case", CASES)
async def test_it_is_counted_under_its_reason_by_every_agent_and_changes_nothing(
    mesh: Mesh, cast: Cast, case: str
):
    reason, make = CASES[case]
    before = {agent.node: rejected_after(agent, 0) for agent in mesh.agents.values()}
    believed = {agent.node: registry_of(agent) for agent in mesh.agents.values()}
    position = 0
    async with plain_client(mesh.server.url) as client:
        for _ in range(COPIES):
            message = make(cast)
            position = await publish(client, message.subject, message.payload, message.headers)
    for agent in mesh.agents.values():
        assert rejected_after(agent, position) - before[agent.node] == Counter({reason: COPIES})
        latest = agent.registry["rejections"][-1]
        assert (latest["position"], latest["subject"]) == (position, message.subject)
        assert latest["reason"] == reason
        assert registry_of(agent) == believed[agent.node]


async def test_each_signer_is_logged_once_a_minute_for_each_reason(mesh: Mesh, cast: Cast):
    late = mesh.agent("late")
    for _ in range(2):
        async with plain_client(mesh.server.url) as client:
            for _, make in CASES.values():
                message = make(cast)
                await publish(client, message.subject, message.payload, message.headers)
    begin = time.perf_counter()
    late.start().ready()
    floor = late.registry["position"]
    async with plain_client(mesh.server.url) as client:
        expected = set()
        for _ in range(COPIES):
            for reason, make in CASES.values():
                message = make(cast)
                floor = await publish(client, message.subject, message.payload, message.headers)
                expected.add((reason, message.signer[:64]))
    counts = rejected_after(late, floor)
    assert counts.total() >= COPIES * len(CASES)
    lines = Counter((line["reason"], line["signer"]) for line in late.logged("event rejected"))
    lines = Counter({pair: count for pair, count in lines.items() if pair[0] != "identity"})
    assert set(lines) == expected
    assert max(lines.values()) <= 1 + (time.perf_counter() - begin) // LOG_AGAIN_AFTER_S
    late.terminate()
    eventually(lambda: mesh.agents["alpha"].get("/api/nodes/late").body["status"] == "left", "late has left")


async def test_a_genuine_event_sent_once_more_is_not_taken_twice_by_the_stream(mesh: Mesh, cast: Cast):
    async with plain_client(mesh.server.url) as client:
        before = len(await read_stream(client, REGISTERED))
        await publish(client, cast.genuine.subject, cast.genuine.payload, cast.genuine.headers)
        assert len(await read_stream(client, REGISTERED)) == before


async def test_a_payload_far_beyond_the_bounds_is_refused_by_the_stream_itself(
    mesh: Mesh, cast: Cast, alpha: AgentProcess
):
    message = signed(cast.beta, ANNOUNCE, b"x" * (EVENT_BYTES_MAX + 8192))
    async with plain_client(mesh.server.url) as client:
        with pytest.raises(nats.js.errors.APIError):
            await publish(client, message.subject, message.payload, message.headers)
        with pytest.raises(nats.errors.MaxPayloadError):
            await publish(client, ANNOUNCE, b"x" * (2 * 1024 * 1024))
    assert alpha.is_ready()


RAW_HEADERS = {
    "a status that only servers give": b"NATS/1.0\r\nStatus: 409\r\nDescription: Consumer Deleted\r\n\r\n",
    "a status that says that all is well": b"NATS/1.0\r\nStatus: 100\r\nNats-Last-Consumer: 1\r\n\r\n",
    "a status that is no number": b"NATS/1.0\r\nStatus: soon\r\n\r\n",
    "a status in the first line": b"NATS/1.0 503\r\n\r\n",
    "a status with a description": b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    "a status with bytes that are no text": b"NATS/1.0 409 \xff\xfe\r\n\r\n",
    "no first line": b"\r\n\r\n",
    "nothing but a first line": b"NATS/1.0\r\n\r\n",
    "another protocol": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    "bytes that are no text": b"NATS/1.0\r\n\xff\xfe: \xff\r\nMesh-Signature: \xff\r\n\r\n",
    "lines that are no headers": b"NATS/1.0\r\nhello\r\n:\r\n\r\n",
    "zero bytes": b"NATS/1.0\r\nMesh-Signer: \x00\r\nMesh-Signature: \x00\r\n\r\n",
    "the same header many times": b"NATS/1.0\r\n" + b"Mesh-Signature: AAAA\r\n" * 100 + b"\r\n",
}


def publish_raw(port: int, subject: str, headers: bytes, payload: bytes) -> None:
    """Publishes as a broken client might, past every check of nats-py."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as connection,
        connection.makefile("rb") as answers,
    ):
        assert answers.readline().startswith(b"INFO")
        connection.sendall(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')
        size = f"{len(headers)} {len(headers) + len(payload)}"
        connection.sendall(f"HPUB {subject} {size}\r\n".encode() + headers + payload + b"\r\nPING\r\n")
        while not answers.readline().startswith(b"PONG"):
            pass


@pytest.mark.parametrize("case", RAW_HEADERS)
def test_headers_that_nobody_should_send_keep_no_agent_from_what_comes_after(
    mesh: Mesh, alpha: AgentProcess, case: str
):
    beta = mesh.agents["beta"]
    before = alpha.registry["rejected"]
    publish_raw(mesh.server.port, ANNOUNCE, RAW_HEADERS[case], b'{"node": "nobody"}')
    after = alpha.register(f"after-{list(RAW_HEADERS).index(case)}", port=1)
    assert after.status == 200
    assert beta.get("/api/services", min_position=after.position).status == 200
    for agent in (alpha, beta):
        assert agent.get("/api/nodes/nobody").status == 404
        eventually(agent.is_ready, f"{agent.node} is current", 5)
    assert sum(alpha.registry["rejected"].values()) == sum(before.values()) + 1


def test_after_all_this_the_agents_agree_and_no_genuine_link_is_missing(mesh: Mesh):
    mesh.agree()
    for agent in mesh.agents.values():
        if agent.is_running:
            assert agent.registry["gaps"] == 0
            assert agent.knows("genuine")
