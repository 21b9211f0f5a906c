"""Snapshots: a whole registry at one position, as bytes and back.

A snapshot plus the events after its position is the registry that a full replay gives. It is a
replica's own memory of what it verified, kept on its own disk, and is not verified again.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.model import Instance, InstanceKey, Stamp
from pmoves_mesh.core.registry import Anchor, Eviction, InstanceEntry, NodeEntry, Registry, Roots, Turn
from pmoves_mesh.errors import MalformedEvent

_VERSION: Final = 3


class _Instance(Struct, frozen=True, array_like=True, gc=False):
    record: Instance
    stamp: Stamp
    position: int
    time_ms: int
    verified: bool
    signer: str
    fingerprint: str


class _Node(Struct, frozen=True, array_like=True):
    name: str
    announced: NodeAnnounced | None
    announced_stamp: Stamp
    position: int
    verified: bool
    signer: str
    fingerprint: str
    floor: Stamp
    spoken: Stamp
    left: Stamp
    lost: Stamp
    head: str
    seen_ms: int
    gaps: int
    entries: list[_Instance]
    removed: list[tuple[InstanceKey, Stamp, int]]
    missing: list[tuple[InstanceKey, Stamp]]
    expired: list[tuple[InstanceKey, Stamp]]


class _Snapshot(Struct, frozen=True):
    version: int
    mesh: str
    position: int
    nodes: list[_Node]
    evictions: list[tuple[str, str, str | None, Eviction]]
    revoked: dict[str, int]
    roots: tuple[Turn, tuple[str, ...], tuple[tuple[str, int], ...]]
    decrees: dict[str, bytes]
    anchor: Anchor
    current_ms: int


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Snapshot)


def dump(registry: Registry, mesh: str) -> bytes:
    """Returns a registry as bytes."""
    return _ENCODER.encode(
        _Snapshot(
            version=_VERSION,
            mesh=mesh,
            position=registry.position,
            nodes=[_dump_node(node) for node in registry.nodes.values()],
            evictions=[(*key, held) for key, held in registry.evictions.items()],
            revoked=registry.revoked,
            roots=(registry.roots.turn, registry.roots.certificates, registry.roots.retired),
            decrees=registry.decrees,
            anchor=registry.anchor,
            current_ms=registry.current_ms,
        )
    )


def load(data: bytes, mesh: str) -> Registry:
    """Returns the registry that `dump` made into bytes.

    Raises:
        MalformedEvent: if the bytes are no snapshot of this mesh that this release can read.
    """
    try:
        snapshot = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("snapshot", str(error)) from None
    if snapshot.version != _VERSION or snapshot.mesh != mesh:
        raise MalformedEvent("snapshot", f"of mesh {snapshot.mesh}, version {snapshot.version}")
    registry = Registry()
    registry.position = snapshot.position
    turn, certificates, retired = snapshot.roots
    registry.roots = Roots(turn=turn, certificates=certificates, retired=retired)
    registry.revoked.update(snapshot.revoked)
    registry.decrees.update(snapshot.decrees)
    registry.anchor = snapshot.anchor
    registry.current_ms = snapshot.current_ms
    for service, node, instance_id, eviction in snapshot.evictions:
        registry.evictions[service, node, instance_id] = eviction
    shared: dict[str, str] = {}
    for held in snapshot.nodes:
        _load_node(registry, held, shared)
    return registry


def _dump_node(node: NodeEntry) -> _Node:
    return _Node(
        node.name,
        node.announced,
        node.announced_stamp,
        node.position,
        node.verified,
        node.signer,
        node.fingerprint,
        node.floor,
        node.spoken,
        node.left,
        node.lost,
        node.head,
        node.seen_ms,
        node.gaps,
        [_dump_instance(entry) for entry in node.entries.values()],
        [(key, stamp, time_ms) for key, (stamp, time_ms) in node.removed.items()],
        list(node.missing.items()),
        list(node.expired.items()),
    )


def _dump_instance(entry: InstanceEntry) -> _Instance:
    return _Instance(
        entry.record,
        entry.stamp,
        entry.position,
        entry.time_ms,
        entry.verified,
        entry.signer,
        entry.fingerprint,
    )


def _load_node(registry: Registry, held: _Node, shared: dict[str, str]) -> None:
    """Puts a node and its instances into a registry, which hold each signer's name but once."""
    registry.nodes[held.name] = NodeEntry(
        name=held.name,
        announced=held.announced,
        announced_stamp=held.announced_stamp,
        position=held.position,
        verified=held.verified,
        signer=held.signer,
        fingerprint=held.fingerprint,
        floor=held.floor,
        spoken=held.spoken,
        left=held.left,
        lost=held.lost,
        head=held.head,
        seen_ms=held.seen_ms,
        removed={key: (stamp, time_ms) for key, stamp, time_ms in held.removed},
        missing=dict(held.missing),
        expired=dict(held.expired),
        gaps=held.gaps,
    )
    for one in held.entries:
        registry.put(
            InstanceEntry(
                record=one.record,
                stamp=one.stamp,
                position=one.position,
                time_ms=one.time_ms,
                verified=one.verified,
                signer=shared.setdefault(one.signer, one.signer),
                fingerprint=shared.setdefault(one.fingerprint, one.fingerprint),
            )
        )
