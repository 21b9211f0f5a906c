"""Queries: listing shows the registry as it is, discovering shows where a client should go."""

from __future__ import annotations

import msgspec
import pytest
from builders import NOW_MS, Story, announced, discovered, evicted, instance, left, lost, registered

from pmoves_mesh.core import query
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import Filter, InstanceView
from pmoves_mesh.core.registry import InstanceEntry


def _keys(entries: list[InstanceEntry]) -> list[tuple[str, str, str]]:
    return [tuple(entry.key) for entry in entries]


@pytest.fixture
def story() -> Story:
    """Four instances on three nodes, of which `gamma` is lost."""
    told = Story()
    told.tell(
        registered(1, instance("rag", "alpha", capabilities=("rag", "gpu"), health_status="healthy")),
        registered(2, instance("tts", "alpha", mode="standalone", capabilities=("gpu",))),
        registered(1, instance("rag", "beta", capabilities=("rag",), health_status="unhealthy")),
        registered(1, instance("rag", "gamma", capabilities=("rag",), health_status="healthy")),
        lost(1, "gamma"),
    )
    return told


ALPHA_RAG = ("rag", "alpha", "1")
ALPHA_TTS = ("tts", "alpha", "1")
BETA_RAG = ("rag", "beta", "1")
GAMMA_RAG = ("rag", "gamma", "1")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), [ALPHA_RAG, BETA_RAG, GAMMA_RAG, ALPHA_TTS]),
        (Filter(name="rag"), [ALPHA_RAG, BETA_RAG, GAMMA_RAG]),
        (Filter(name="none"), []),
        (Filter(node="alpha"), [ALPHA_RAG, ALPHA_TTS]),
        (Filter(node="none"), []),
        (Filter(name="rag", node="beta"), [BETA_RAG]),
        (Filter(mode="standalone"), [ALPHA_TTS]),
        (Filter(mode="docked", node="alpha"), [ALPHA_RAG]),
        (Filter(capabilities=("gpu",)), [ALPHA_RAG, ALPHA_TTS]),
        (Filter(capabilities=("gpu", "rag")), [ALPHA_RAG]),
        (Filter(name="tts", capabilities=("rag",)), []),
        (Filter(healthy_only=True), [ALPHA_RAG]),
        (Filter(healthy_only=True, node="gamma"), []),
    ],
    ids=str,
)
def test_a_filter_finds_what_matches_in_order(
    story: Story, wanted: Filter, found: list[tuple[str, str, str]]
):
    assert _keys(query.find(story.registry, wanted)) == found


def test_what_is_not_listed_is_never_found(story: Story):
    story.tell(evicted("rag", "alpha"))
    assert ALPHA_RAG not in _keys(query.find(story.registry, Filter()))
    assert ALPHA_RAG not in _keys(query.resolve(story.registry, "rag"))


def test_discovery_leaves_out_unhealthy_instances_lost_nodes_and_maintenance(story: Story):
    assert _keys(discovered(story.registry, ("rag",))) == [ALPHA_RAG]
    story.tell(registered(3, instance("rag", "alpha", capabilities=("rag",), maintenance=True)))
    assert discovered(story.registry, ("rag",)) == []


def test_discovery_needs_every_capability(story: Story):
    assert _keys(discovered(story.registry, ("gpu", "rag"))) == [ALPHA_RAG]
    assert _keys(discovered(story.registry, ())) == [ALPHA_RAG, ALPHA_TTS]
    assert discovered(story.registry, ("gpu", "none")) == []


def test_resolving_gives_unhealthy_instances_last(story: Story):
    assert _keys(query.resolve(story.registry, "rag")) == [ALPHA_RAG, BETA_RAG]
    assert query.resolve(story.registry, "none") == []


def test_the_best_is_healthy_then_has_an_endpoint_then_is_near():
    story = Story()
    story.tell(
        registered(1, instance(node="alpha", port=80)),
        registered(1, instance(node="beta", port=80)),
        registered(1, instance(node="gamma", port=0)),
        registered(1, instance(node="delta", port=0, health_status="healthy")),
        registered(1, instance(node="kappa", port=80, health_status="unhealthy")),
    )
    nodes = [entry.record.node for entry in query.resolve(story.registry, "rag", node="beta")]
    assert nodes == ["delta", "beta", "alpha", "gamma", "kappa"]
    far = [entry.record.node for entry in query.resolve(story.registry, "rag")]
    assert far == ["delta", "alpha", "beta", "gamma", "kappa"]


def test_an_instance_is_shown_with_what_the_replica_knows_of_it():
    story = Story()
    record = instance(
        "rag",
        "alpha",
        "8080",
        port=8080,
        ports={"grpc": 9000},
        capabilities=("rag",),
        health_url="http://alpha.example:8080/healthz",
        health_status="healthy",
        health_output="200",
        metadata={"tier": "api"},
        deregister_after=60.0,
        registered_at="2026-01-01T00:00:00Z",
    )
    story.tell(registered(3, record))
    story.tell(announced(4), time_ms=NOW_MS + 1500)
    entry = story.registry.entry(InstanceKey("rag", "alpha", "8080"))
    assert entry is not None
    view = query.instance_view(story.registry, entry)
    own = msgspec.structs.asdict(record) | {"last_seen": "2026-01-02T00:00:01.500Z"}
    assert msgspec.structs.asdict(view) == own | {
        "node_status": "alive",
        "revision": 3,
        "position": 1,
        "verified": True,
        "signer": "spiffe://pmoves-mesh/node/alpha",
    }


def test_an_instance_is_shown_with_every_field_of_the_contract():
    fields = (
        "name id node host port ports mode capabilities health_url health_status health_output node_status "
        "maintenance metadata registered_at last_seen revision position verified signer"
    )
    assert set(fields.split()) <= set(InstanceView.__struct_fields__)


def test_a_node_is_shown_by_its_announcement():
    story = Story()
    story.tell(registered(1), registered(2, instance("tts")))
    lines = {"mode": "standalone", "port": 8100, "tailscale_ip": "100.64.0.1", "version": "1"}
    story.tell(announced(3, capabilities=("gpu",), resources={"load": 1}, **lines))
    story.tell(left(4))
    view = query.node_view(story.registry.nodes["alpha"])
    assert (view.name, view.status, view.host, view.port) == ("alpha", "left", "alpha.example", 8100)
    assert (view.mode, view.capabilities, view.services) == ("standalone", ("gpu",), ("rag", "tts"))
    assert (view.instances, view.tailscale_ip, view.resources) == (2, "100.64.0.1", {"load": 1})
    assert (view.version, view.incarnation, view.revision, view.position) == ("1", 1, 4, 3)
    assert (view.last_seen, view.verified) == ("2026-01-02T00:00:00.000Z", True)
    assert (view.signer, view.gaps) == ("spiffe://pmoves-mesh/node/alpha", 3)


def test_a_node_that_never_announced_itself_is_shown_by_what_it_registered():
    story = Story()
    story.tell(registered(1))
    view = query.node_view(story.registry.nodes["alpha"])
    assert (view.host, view.port, view.mode, view.instances) == ("alpha.example", 0, "docked", 1)
    assert (view.tailscale_ip, view.resources, view.version) == (None, {}, "")


def test_a_node_that_only_a_witness_spoke_of_is_shown_as_lost():
    story = Story()
    story.tell(lost(1))
    view = query.node_view(story.registry.nodes["alpha"])
    assert (view.status, view.host, view.incarnation, view.last_seen) == ("lost", "", 0, "")


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [(0, ""), (1, "1970-01-01T00:00:00.001Z"), (1_767_225_600_000, "2026-01-01T00:00:00.000Z")],
)
def test_times_are_shown_as_rfc_3339_in_utc(time_ms: int, text: str):
    assert query.iso(time_ms) == text
