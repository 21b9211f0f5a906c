"""Snapshots: a registry as bytes and back, and nothing else accepted."""

from __future__ import annotations

import msgspec
import pytest
from builders import (
    MESH,
    Story,
    announced,
    deregistered,
    evicted,
    expired,
    instance,
    left,
    line,
    lost,
    registered,
    revoked,
    rotated,
)

from pmoves_mesh.core import snapshot
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import MalformedEvent


@pytest.fixture
def story() -> Story:
    """One of everything that a registry can hold."""
    told = Story()
    told.tell(
        registered(1, instance(capabilities=("gpu",), metadata={"a": [1, None, 2.5]})),
        announced(5, [line(1), line(4, "tts")], resources={"cpus": 2**63 - 1}),
        registered(6, instance("extra")),
        deregistered(7, instance("gone")),
        left(8),
        registered(1, instance(node="beta")),
        lost(1, "beta"),
        expired(1, instance(node="beta")),
        evicted(),
        evicted("tts", "beta", "2", lifted=True),
        revoked("a" * 64),
        rotated("pem one", "pem two"),
    )
    told.tell_unsigned("mesh.node.announce.v1", b'{"node":"old","port":80}')
    return told


def test_a_registry_comes_back_as_it_was(story: Story):
    registry = snapshot.load(snapshot.dump(story.registry, MESH), MESH)
    assert registry.position == story.registry.position
    assert registry.state() == story.registry.state()
    assert registry.nodes == story.registry.nodes
    assert len(registry) == len(story.registry) == 4
    assert [e.key for e in registry.with_capabilities(("gpu",))] == [("rag", "alpha", "1")]


def test_a_restored_registry_is_saved_as_the_same_bytes(story: Story):
    data = snapshot.dump(story.registry, MESH)
    assert snapshot.dump(snapshot.load(data, MESH), MESH) == data


def test_an_empty_registry_comes_back_empty():
    registry = snapshot.load(snapshot.dump(Registry(), MESH), MESH)
    assert (registry.position, len(registry), registry.nodes) == (0, 0, {})


def test_what_an_expired_instance_awaits_is_not_forgotten(story: Story):
    story.registry = snapshot.load(snapshot.dump(story.registry, MESH), MESH)
    assert ("rag", "beta", "1") not in story.listed()
    story.tell(announced(2, [line(1)], node="beta"))
    assert ("rag", "beta", "1") in story.listed()


def test_a_snapshot_of_another_mesh_is_refused(story: Story):
    with pytest.raises(MalformedEvent, match="of mesh other, version 3"):
        snapshot.load(snapshot.dump(story.registry, "other"), MESH)


def test_a_snapshot_of_another_version_is_refused(story: Story):
    value = msgspec.msgpack.decode(snapshot.dump(story.registry, MESH))
    with pytest.raises(MalformedEvent, match="version 99"):
        snapshot.load(msgspec.msgpack.encode(value | {"version": 99}), MESH)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"{}", b"\x80", b"\xa1\xff", b"\x91" * 100_000, msgspec.msgpack.encode([1, 2])]
)
def test_bytes_that_are_no_snapshot_are_refused(data: bytes):
    with pytest.raises(MalformedEvent, match="snapshot"):
        snapshot.load(data, MESH)


@pytest.mark.parametrize("length", [1, 10, 100, 500])
def test_a_snapshot_that_was_cut_off_is_refused(story: Story, length: int):
    with pytest.raises(MalformedEvent):
        snapshot.load(snapshot.dump(story.registry, MESH)[:length], MESH)
