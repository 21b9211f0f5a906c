"""The events of the stream over HTTP: in pages, filtered, each with what its signature is worth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from agents import AgentProcess, Mesh, mesh_in
from builders import MESH
from history_support import config_of, following, positions, told
from plain_nats import ANNOUNCE, plain_client, publish

from pmoves_mesh.agent.history import showing
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.core import envelope, wire
from pmoves_mesh.core.history import EventView
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.identity import verified_identity

REGISTERED = "service.registry.registered"


@dataclass(frozen=True)
class Told:
    """A mesh of two nodes, of which one has a certificate that was revoked, and events of all kinds."""

    mesh: Mesh
    by_beta: int
    unsigned: int
    forged: int
    foreign: int
    garbage: int
    revoked: int
    last: int

    @property
    def alpha(self) -> AgentProcess:
        return self.mesh.agents["alpha"]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with mesh_in(tmp_path_factory.mktemp("history")) as mesh:
        alpha, beta = mesh.started("alpha"), mesh.started("beta")
        alpha.register("whisper", port=9000, id="large", metadata={"markup": "<b>bold</b>"})
        by_beta = beta.register("whisper", port=9000).position
        mesh.agree()
        (true,) = told(alpha, after=by_beta - 1, limit=1)["events"]
        unsigned, forged, foreign, garbage = asyncio.run(smuggled(mesh.server.url, true))
        done = alpha.run("certs", "revoke", "beta", "--reason", "stolen")
        assert done.returncode == 0, done.stderr
        revoked = told(alpha, type="mesh.trust.revoked.v1")["events"][0]["position"]
        last = asyncio.run(said_still(mesh.server.url, beta, true["data"]))
        yield Told(mesh, by_beta, unsigned, forged, foreign, garbage, revoked, last)


async def smuggled(url: str, true: dict[str, Any]) -> list[int]:
    """Puts what no agent applies into the stream, and returns where it stands."""
    said = json.dumps({**true["data"], "revision": 999}).encode()
    signed = {"Nats-Msg-Id": "forged", "Mesh-Format": "1.0", "Mesh-Signer": true["fingerprint"]}
    async with plain_client(url) as client:
        return [
            await publish(client, ANNOUNCE, b'{"node": "gpu-box", "host": "192.168.1.30"}'),
            await publish(client, REGISTERED, said, {**signed, "Mesh-Signature": "AAAA"}),
            await publish(
                client,
                REGISTERED,
                said,
                {"Mesh-Format": "1.0", "Mesh-Signer": "0" * 64, "Mesh-Signature": "AAAA"},
            ),
            await publish(client, REGISTERED, b"\xff not JSON", None),
        ]


async def said_still(url: str, beta: AgentProcess, data: dict[str, Any]) -> int:
    """Lets whoever has the keys of a node say something in its name, and returns where it stands."""
    certificate, key = identity_files(config_of(beta))
    identity = verified_identity(
        MESH,
        "beta",
        keystore.read_roots(beta.tls_dir),
        read_certificates(certificate)[0],
        read_key(key),
    )
    said = {**data, "service": "spy", "data": {**data["data"], "name": "spy"}, "revision": 999}
    sealed = envelope.seal(wire.decode(REGISTERED, json.dumps(said).encode()), identity)
    async with plain_client(url) as client:
        return await publish(client, sealed.subject, sealed.payload, sealed.headers)


@pytest.fixture(scope="module")
def alpha(past: Told) -> AgentProcess:
    return past.alpha


def event_at(agent: AgentProcess, position: int) -> dict[str, Any]:
    (event,) = told(agent, after=position - 1, before=position + 1)["events"]
    found: dict[str, Any] = event
    return found


# What an event is


def test_an_event_is_shown_with_whatever_it_says_and_who_signed_it(past: Told):
    event = event_at(past.alpha, past.by_beta)
    data = event.pop("data")
    assert event.pop("time").endswith("Z")
    assert (len(event.pop("fingerprint")), event.pop("incarnation") > 0) == (64, True)
    assert event.pop("size") > len("{}")
    assert event == {
        "position": past.by_beta,
        "subject": REGISTERED,
        "type": "registered",
        "node": "beta",
        "service": "whisper",
        "id": "9000",
        "revision": 2,
        "verified": True,
        "signer": "spiffe://pmoves-mesh/node/beta",
        "refused": "",
    }
    assert (data["node"], data["data"]["port"]) == ("beta", 9000)


def test_metadata_stays_what_it_is(past: Told):
    (event,) = told(past.alpha, id="large")["events"]
    assert event["data"]["data"]["metadata"] == {"markup": "<b>bold</b>"}


def test_an_unsigned_event_is_shown_and_said_to_be_refused(past: Told):
    event = event_at(past.alpha, past.unsigned)
    assert (event["verified"], event["signer"], event["fingerprint"]) == (False, "", "")
    assert event["refused"].startswith("unsigned")
    assert event["node"] == "gpu-box"


def test_a_forged_event_is_shown_with_whom_it_names_and_why_it_is_refused(past: Told):
    event = event_at(past.alpha, past.forged)
    assert (event["verified"], event["signer"]) == (False, "spiffe://pmoves-mesh/node/beta")
    assert event["refused"].startswith("bad_signature")


def test_an_event_of_a_stranger_is_shown_as_nobodys(past: Told):
    event = event_at(past.alpha, past.foreign)
    assert (event["verified"], event["signer"], event["fingerprint"]) == (False, "", "0" * 64)
    assert event["refused"].startswith("untrusted_issuer")


def test_what_is_no_json_is_shown_without_data(past: Told):
    event = event_at(past.alpha, past.garbage)
    assert (event["data"], event["verified"], event["type"], event["node"]) == (None, False, REGISTERED, "")
    assert event["size"] == len(b"\xff not JSON")


def test_what_a_certificate_signed_before_it_was_revoked_is_verified_and_afterwards_it_is_refused(past: Told):
    assert event_at(past.alpha, past.by_beta)["verified"]
    (spy,) = told(past.alpha, service="spy")["events"]
    assert spy["position"] > past.revoked
    assert (spy["verified"], spy["signer"]) == (False, "spiffe://pmoves-mesh/node/beta")
    assert spy["refused"].startswith("revoked")


def test_the_registry_before_a_revocation_still_lists_what_it_took_away(past: Told):
    def listed(position: int) -> set[tuple[str, str]]:
        found = past.alpha.get("/api/services", at=position).body["services"]
        return {(one["name"], one["node"]) for one in found}

    assert ("whisper", "beta") in listed(past.revoked - 1)
    assert listed(past.revoked) == listed(past.last) == {("whisper", "alpha")}


def test_the_registry_of_the_past_holds_nothing_that_was_refused(past: Told):
    nodes = past.alpha.get("/api/nodes", at=past.garbage).body["nodes"]
    assert [node["name"] for node in nodes] == ["alpha", "beta"]


def test_in_a_mesh_that_takes_unsigned_events_they_are_shown_as_taken(past: Told):
    gamma = past.mesh.started("gamma", PMOVES_UNSIGNED="accept")
    try:
        event = event_at(gamma, past.unsigned)
        assert (event["verified"], event["refused"], event["signer"]) == (False, "", "")
        nodes = gamma.get("/api/nodes", at=past.unsigned).body["nodes"]
        assert "gpu-box" in [node["name"] for node in nodes]
    finally:
        gamma.terminate()


# Which events


def test_the_newest_come_first_unless_a_beginning_is_named(past: Told):
    alpha, last = past.alpha, told(past.alpha)["last"]["position"]
    assert positions(alpha) == list(range(last, 0, -1))
    assert positions(alpha, after=0) == list(range(1, last + 1))
    assert positions(alpha, since=1) == list(range(1, last + 1))
    assert positions(alpha, after=0, order="desc") == list(range(last, 0, -1))
    assert positions(alpha, order="asc") == list(range(1, last + 1))


def test_after_and_before_leave_out_what_they_name_and_since_and_until_do_not(past: Told):
    assert positions(past.alpha, after=2, before=6) == [3, 4, 5]
    assert positions(past.alpha, since=2, until=5) == [2, 3, 4, 5]
    assert positions(past.alpha, since=2, until=5, after=3, before=5) == [4]
    assert positions(past.alpha, after=5, before=3) == []
    assert positions(past.alpha, before=0) == []
    assert positions(past.alpha, after=10**12) == []


def test_times_bound_a_page_as_positions_do(past: Told):
    event = event_at(past.alpha, past.by_beta)
    found = positions(past.alpha, since=event["time"], until=event["time"])
    assert past.by_beta in found
    assert all(event_at(past.alpha, one)["time"] == event["time"] for one in found)
    assert positions(past.alpha, since="now") == []
    assert positions(past.alpha, until="now") == positions(past.alpha)


def test_a_page_says_whether_there_is_more_and_how_to_go_on(past: Told):
    alpha, last = past.alpha, told(past.alpha)["last"]["position"]
    page = told(alpha, limit=2)
    assert (page["count"], page["more"], page["next"]) == (2, True, last - 1)
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = told(alpha, **query)
        seen += [event["position"] for event in page["events"]]
        if not page["more"]:
            break
        query["before"] = page["next"]
    assert seen == list(range(last, 0, -1))
    whole = told(alpha, limit=1000)
    assert (whole["more"], whole["next"]) == (False, None)


def test_every_page_says_what_the_stream_holds(past: Told):
    page = told(past.alpha, limit=1, after=3)
    assert page["first"] == {"position": 1, "time": event_at(past.alpha, 1)["time"]}
    last = page["last"]["position"]
    assert page["last"]["time"] == event_at(past.alpha, last)["time"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"subject": "mesh.node.*.v1", "node": "alpha"}, {"mesh.node.announce.v1"}),
        ({"subject": "service.registry.>"}, {REGISTERED}),
        ({"subject": ">", "node": "alpha", "service": "whisper"}, {REGISTERED}),
        ({"type": "registered", "node": "beta"}, {REGISTERED}),
        ({"type": "mesh.trust.revoked.v1"}, {"mesh.trust.revoked.v1"}),
        ({"type": "registered", "subject": "mesh.node.*.v1"}, set()),
        ({"type": "nonsense"}, set()),
        ({"subject": "elsewhere.>"}, set()),
        ({"subject": "mesh.node.nonsense.v1"}, set()),
        ({"service": "whisper", "id": "large", "node": "alpha"}, {REGISTERED}),
        ({"service": "whisper", "id": "large", "node": "beta"}, set()),
        ({"node": "lph"}, set()),
    ],
)
def test_filters_hold_together(alpha: AgentProcess, query: dict[str, str], expected: set[str]):
    found = told(alpha, **query)["events"]
    assert {event["subject"] for event in found} == expected
    for name in ("node", "service", "id", "type"):
        assert all(event[name] == query.get(name, event[name]) for event in found)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"limit": 0}, 422, "limit"),
        ({"limit": 1001}, 422, "limit"),
        ({"limit": "many"}, 422, "limit"),
        ({"order": "random"}, 422, "order"),
        ({"after": -1}, 422, "after"),
        ({"before": "x"}, 422, "before"),
        ({"since": "x"}, 422, "since"),
        ({"until": 10**9}, 422, "until"),
        ({"since": "7d"}, 410, "since"),
        ({"until": 0}, 410, "until"),
        ({"subject": "a..b"}, 422, "subject"),
        ({"subject": ">.a"}, 422, "subject"),
        ({"node": "no node"}, 422, "node"),
        ({"id": "-"}, 422, "id"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    alpha: AgentProcess, query: dict[str, Any], status: int, field: str
):
    answer = alpha.get("/api/events", **query)
    assert (answer.status, answer.body["field"]) == (status, field), answer.text


# As they come


def test_whoever_follows_is_told_of_what_comes(past: Told):
    with following(past.alpha) as events:
        position = past.alpha.register("live", port=1).position
        event = next(events)
    assert (event["sse_id"], event["position"], event["sse"]) == (position, position, "event")
    assert (event["service"], event["verified"]) == ("live", True)
    assert event_at(past.alpha, position).items() <= event.items()


def test_whoever_comes_again_goes_on_behind_what_it_was_told_last(past: Told):
    with following(past.alpha, last_event_id=2) as events:
        assert [next(events)["sse_id"] for _ in range(3)] == [3, 4, 5]
    with following(past.alpha, after=2) as events:
        assert next(events)["sse_id"] == 3
    with following(past.alpha, last_event_id=4, after=2) as events:
        assert next(events)["sse_id"] == 5


def test_whoever_follows_may_filter(past: Told):
    with following(past.alpha, after=0, node="beta", type="registered") as events:
        found = [next(events) for _ in range(4)]
    assert [event["service"] for event in found] == ["whisper", "whisper", "whisper", "spy"]
    assert [event["verified"] for event in found] == [True, False, False, False]


def test_a_position_beyond_the_stream_is_followed_from_its_end(past: Told):
    with following(past.alpha, last_event_id=10**9) as events:
        position = past.alpha.register("beyond", port=1).position
        assert next(events)["sse_id"] == position


def test_a_head_request_for_the_stream_has_no_body(past: Told):
    answer = past.alpha.request("HEAD", "/api/events", headers={"Accept": "text/event-stream"})
    assert (answer.status, answer.text) == (200, "")


def test_a_page_of_large_events_ends_before_its_limit_and_goes_on(
    past: Told, monkeypatch: pytest.MonkeyPatch
):
    page = showing._Page(10)
    monkeypatch.setattr(showing, "_PAGE_BYTES_MAX", 1000)
    event = msgspec.convert(event_at(past.alpha, past.by_beta), EventView)
    page.add(event)
    page.add(event)
    page.reached = 5
    assert page.has_enough
    assert page.more(0, 9, newest_first=True)
    assert page.next == 6
    assert page.more(0, 9, newest_first=False)
    assert page.next == 5
    assert not page.more(0, 5, newest_first=False)
