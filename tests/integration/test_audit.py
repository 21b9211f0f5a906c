"""The audit: an untouched mesh is sound, and whatever is edited in the stored stream is found where it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import STREAM, TIMEOUT_S, plain_client, publish, read_stream

from pmoves_mesh.agent import audit
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.core import envelope, wire
from pmoves_mesh.core.audit import Report
from pmoves_mesh.pki import keystore

API = "$JS.API.STREAM"
REGISTERED = "service.registry.registered"
UPDATED = "service.registry.updated"
REVOKED = "mesh.trust.revoked.v1"


@dataclass(frozen=True)
class Stored:
    """A message as the stream holds it."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def said(self) -> dict[str, object]:
        return json.loads(self.payload)


Past = list[Stored]


async def read_past(url: str) -> Past:
    async with plain_client(url) as client:
        return [
            Stored(each.subject, each.data, dict(each.headers or {})) for each in await read_stream(client)
        ]


async def rewrite(url: str, past: Past) -> None:
    """Does what the server's administrator can: the same stream again, with another past."""
    async with plain_client(url) as client:
        info = json.loads((await client.request(f"{API}.INFO.{STREAM}", timeout=TIMEOUT_S)).data)
        await client.request(f"{API}.DELETE.{STREAM}", timeout=TIMEOUT_S)
        made = await client.request(
            f"{API}.CREATE.{STREAM}", json.dumps(info["config"]).encode(), timeout=TIMEOUT_S
        )
        assert "error" not in json.loads(made.data), made.data
        for position, message in enumerate(past, 1):
            assert (
                await publish(client, message.subject, message.payload, message.headers or None) == position
            )


def audited(agent: AgentProcess, **settings: str) -> Report:
    return audit.run(load({**agent.environment, **settings}, agent.directory))


def live(mesh: Mesh) -> None:
    """Lets a mesh have a past: two nodes, services that came, changed and went, restarts, and an eviction."""
    alpha, beta = mesh.started("alpha"), mesh.started("beta")
    for number in range(4):
        alpha.register(f"of-alpha-{number}", port=number)
        beta.register(f"of-beta-{number}", port=number)
    for run in range(3):
        alpha.register("of-alpha-0", port=0, metadata={"run": run})
    beta.delete("/api/services/of-beta-1")
    beta.kill()
    beta.restart()
    beta.register("after-the-crash", port=1)
    beta.terminate()
    beta.restart()
    beta.register("after-the-leave", port=1)
    evicted = alpha.run("deregister", "beta/of-beta-2", "--force")
    assert evicted.returncode == 0, evicted.stderr
    mesh.agree()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose agents have ended: only its stream is left."""
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        live(mesh)
        for agent in mesh.agents.values():
            agent.terminate()
        yield mesh


@pytest.fixture(scope="module")
def past(mesh: Mesh) -> Past:
    return asyncio.run(read_past(mesh.server.url))


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def edited(mesh: Mesh, alpha: AgentProcess) -> Callable[[Past], Report]:
    def edit(past: Past) -> Report:
        asyncio.run(rewrite(mesh.server.url, past))
        return audited(alpha)

    return edit


def index_of(past: Past, subject: str, service: str, node: str) -> int:
    """Returns where an event about a service is in the past."""
    return next(
        index
        for index, each in enumerate(past)
        if each.subject == subject and each.said["service"] == service and each.said["node"] == node
    )


def stranger(directory: Path) -> tuple[bytes, Callable[[str, dict[str, object]], Stored]]:
    """Returns the certificate of a node under another CA of the same name, and how it signs."""
    now_ms = SystemClock().now_ms()
    keystore.ensure_authority(directory, "pmoves-mesh", now_ms)
    identity = keystore.open_identity(directory / IDENTITY_DIR, directory, "pmoves-mesh", "alpha", (), now_ms)

    def sign(subject: str, said: dict[str, object]) -> Stored:
        sealed = envelope.seal(wire.decode(subject, json.dumps(said).encode()), identity)
        return Stored(sealed.subject, sealed.payload, sealed.headers)

    return identity.certificate_der, sign


def test_an_untouched_past_with_restarts_crashes_and_removals_is_sound(mesh: Mesh, past: Past):
    report = audited(mesh.agents["alpha"])
    assert report.sound, report.findings
    assert report.events >= len(past) - 4
    assert set(report.signers) == {
        "spiffe://pmoves-mesh/node/alpha",
        "spiffe://pmoves-mesh/node/beta",
        "spiffe://pmoves-mesh/operator/alpha",
    }
    assert report.kinds["service.registry.evicted"] == 1
    assert report.kinds[REGISTERED] == 10
    assert not report.beginnings


def test_the_same_past_written_again_is_sound_too(past: Past, edited: Callable[[Past], Report]):
    report = edited(past)
    assert report.sound, report.findings
    assert (report.first, report.last, report.events) == (1, len(past), len(past))


def test_a_changed_payload_is_found_where_it_is(past: Past, edited: Callable[[Past], Report]):
    index = index_of(past, REGISTERED, "of-beta-0", "beta")
    changed = replace(past[index], payload=past[index].payload.replace(b'"port":0', b'"port":6'))
    assert changed != past[index]
    found = edited([*past[:index], changed, *past[index + 1 :]]).findings[0]
    assert (found.position, found.subject, found.reason) == (index + 1, REGISTERED, "bad_signature")
    assert found.signer == "spiffe://pmoves-mesh/node/beta"


def test_a_message_that_was_left_out_is_found_at_the_next_of_its_node(
    past: Past, edited: Callable[[Past], Report]
):
    index = index_of(past, REGISTERED, "of-alpha-2", "alpha")
    following = next(at for at in range(index + 1, len(past)) if past[at].said["node"] == "alpha")
    report = edited([*past[:index], *past[index + 1 :]])
    found = report.findings[0]
    assert (found.position, found.subject, found.reason) == (following, past[following].subject, "gap")
    assert found.signer == "spiffe://pmoves-mesh/node/alpha"
    assert sum(report.reasons.values()) == 1


def test_a_beginning_that_was_left_out_is_found(past: Past, edited: Callable[[Past], Report]):
    first = next(at for at, each in enumerate(past) if each.said["node"] == "beta")
    second = next(at for at in range(first + 1, len(past)) if past[at].said["node"] == "beta")
    found = edited([*past[:first], *past[first + 1 :]]).findings[0]
    assert (found.position, found.reason) == (second, "gap")
    assert "begins here" in found.detail


def test_a_last_word_that_was_cut_off_is_found_because_the_bucket_still_holds_it(
    past: Past, edited: Callable[[Past], Report]
):
    last = max(at for at, each in enumerate(past) if each.said["node"] == "alpha")
    report = edited([*past[:last], *past[last + 1 :]])
    assert [(each.reason, each.position) for each in report.findings] == [("cut", last + 1)]
    assert report.findings[0].signer == "spiffe://pmoves-mesh/node/alpha"


def test_a_decree_that_was_left_out_is_found_because_the_bucket_still_holds_it(
    past: Past, edited: Callable[[Past], Report]
):
    index = next(at for at, each in enumerate(past) if each.subject == "service.registry.evicted")
    found = edited([*past[:index], *past[index + 1 :]]).findings[0]
    assert (found.reason, found.subject) == ("cut", "service.registry.evicted")
    assert found.signer == "spiffe://pmoves-mesh/operator/alpha"


def test_two_messages_that_changed_places_are_found_at_the_first_of_them(
    past: Past, edited: Callable[[Past], Report]
):
    one = index_of(past, REGISTERED, "of-alpha-2", "alpha")
    other = index_of(past, REGISTERED, "of-alpha-3", "alpha")
    swapped = list(past)
    swapped[one], swapped[other] = past[other], past[one]
    report = edited(swapped)
    assert (report.findings[0].position, report.findings[0].reason) == (one + 1, "order")


def test_an_event_that_a_stranger_forged_is_found_where_it_is(
    mesh: Mesh, past: Past, edited: Callable[[Past], Report], tmp_path: Path
):
    certificate, sign = stranger(tmp_path)
    index = index_of(past, UPDATED, "of-alpha-0", "alpha")
    forged = sign(UPDATED, past[index].said)

    async def show() -> None:
        async with plain_client(mesh.server.url) as client:
            identities = await client.jetstream().key_value("MESH_IDENTITIES")
            await identities.put(forged.headers[envelope.SIGNER], certificate)

    asyncio.run(show())
    report = edited([*past[:index], forged, *past[index + 1 :]])
    found = report.findings[0]
    assert (found.position, found.subject, found.reason) == (index + 1, UPDATED, "untrusted_issuer")
    assert found.signer == forged.headers[envelope.SIGNER]


def test_an_unsigned_event_is_a_finding_unless_the_mesh_accepts_such(
    mesh: Mesh, past: Past, edited: Callable[[Past], Report]
):
    bare = Stored("mesh.node.announce.v1", b'{"node": "old", "host": "10.0.0.9", "port": 80}', {})
    report = edited([*past, bare])
    assert [(each.position, each.reason, each.signer) for each in report.findings] == [
        (len(past) + 1, "unsigned", "nobody")
    ]
    accepting = audited(mesh.agents["alpha"], PMOVES_UNSIGNED="accept")
    assert accepting.sound
    assert accepting.signers[""] == 1


def test_the_command_says_what_it_walked_and_exits_by_what_it_found(
    alpha: AgentProcess, past: Past, edited: Callable[[Past], Report]
):
    edited(past)
    sound = alpha.run("audit")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.startswith(f"walked {len(past)} events, positions 1 to {len(past)}\n")
    assert f"{REGISTERED}\t10\n" in sound.stdout
    assert "\nsound: every event is signed" in sound.stdout
    index = index_of(past, REGISTERED, "of-beta-3", "beta")
    edited([*past[:index], *past[index + 1 :]])
    unsound = alpha.run("audit", "--json")
    assert unsound.returncode == 1
    shown = json.loads(unsound.stdout)
    assert not shown["sound"]
    first = shown["findings"][0]
    assert unsound.stderr == (
        f"pmoves-mesh: not sound: position {first['position']}, {first['subject']} "
        f"by {first['signer']}: gap: {first['detail']}\n"
    )


def test_what_a_node_said_after_its_certificate_was_revoked_is_found(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha, beta = mesh.started("alpha"), mesh.started("beta", ANNOUNCE_SEC="3600")
        beta.register("before", port=1)
        mesh.agree()
        assert audited(alpha).sound
        revoked = alpha.run("certs", "revoke", "beta", "--json")
        assert revoked.returncode == 0, revoked.stderr
        position = json.loads(revoked.stdout)["position"]
        assert audited(alpha).sound, "what was said before still holds"
        beta.terminate()  # which it announces
        eventually(lambda: not audited(alpha).sound, "beta spoke", 10)
        found = audited(alpha).findings[0]
        assert (found.signer, found.reason) == ("spiffe://pmoves-mesh/node/beta", "revoked")
        assert found.position > position


def test_a_byte_flipped_in_the_servers_file_is_found_although_the_server_drops_the_event(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha", ANNOUNCE_SEC="3600")
        for number in range(5):
            alpha.register(f"service-{number}", port=9, metadata={"mark": f"mark-{number}"})
        alpha.terminate()
        past = asyncio.run(read_past(mesh.server.url))
        flipped = next(at for at, each in enumerate(past, 1) if b"mark-2" in each.payload)
        mesh.server.stop()
        (block,) = (mesh.directory / "nats" / "store").rglob(f"{STREAM}/msgs/*.blk")
        stored = block.read_bytes()
        assert stored.count(b"mark-2") == 1
        block.write_bytes(stored.replace(b"mark-2", b"mark-3"))
        mesh.server.start()
        report = audited(alpha)
        kept = asyncio.run(read_past(mesh.server.url))
        # The server drops what fails its checksum; then the next event has nothing to follow on.
        assert len(kept) in {len(past), len(past) - 1}
        assert not report.sound
        assert report.findings[0].position in {flipped, flipped + 1}
