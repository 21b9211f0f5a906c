"""An instance whose pieces are kept reads as if it were encoded anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from builders import instance

from pmoves_mesh.core import query
from pmoves_mesh.core.model import Stamp
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.http.encoded import EncodedInstances, Pieces, moving, pieces_of

DECOYS = '","node_status":"lost","last_seen":"never'


def held(**fields: Any) -> tuple[Registry, InstanceEntry]:
    registry = Registry()
    registry.nodes["alpha"] = NodeEntry("alpha", spoken=Stamp(1, 1), seen_ms=1_800_000_000_000)
    record = msgspec.structs.replace(instance("rag", "alpha"), **fields)
    entry = InstanceEntry(record, Stamp(1, 1), 7, 1_700_000_000_000, True, "spiffe://m/node/alpha", "f")
    registry.put(entry)
    return registry, entry


def anew(registry: Registry, entry: InstanceEntry) -> bytes:
    return msgspec.json.encode(query.instance_view(registry, entry))


def shown(registry: Registry, entry: InstanceEntry, pieces: Pieces) -> bytes:
    node = registry.nodes["alpha"]
    return pieces.head + moving(node.status, max(entry.time_ms, node.seen_ms)) + pieces.tail


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"health_output": DECOYS, "maintenance_reason": DECOYS},
        {"registered_at": DECOYS, "last_seen": DECOYS},
        {"metadata": {"node_status": "lost", "last_seen": "never", "in": {"last_seen": "", DECOYS: DECOYS}}},
    ],
)
def test_it_reads_as_if_it_were_encoded_anew(fields: dict[str, Any]):
    registry, entry = held(**fields)
    assert shown(registry, entry, pieces_of(entry)) == anew(registry, entry)


def test_it_shows_what_became_of_the_node_since():
    registry, entry = held()
    pieces = pieces_of(entry)
    registry.nodes["alpha"].lost = Stamp(1, 1)
    registry.nodes["alpha"].seen_ms += 60_000
    assert b'"node_status":"lost"' in shown(registry, entry, pieces)
    assert shown(registry, entry, pieces) == anew(registry, entry)


def test_it_shows_the_latest_record():
    registry, entry = held()
    kept = EncodedInstances()
    kept.of(entry)
    later = replace(entry, record=msgspec.structs.replace(entry.record, port=9), position=8)
    registry.put(later)
    assert shown(registry, later, kept.of(later)) == anew(registry, later)


def test_what_is_asked_for_often_is_encoded_once():
    _, entry = held()
    kept = EncodedInstances()
    kept.of(entry)
    assert kept.of(entry) is kept.of(entry)


def test_the_digest_is_of_all_that_does_not_move():
    registry, entry = held()
    digest = pieces_of(entry).digest
    registry.nodes["alpha"].seen_ms += 60_000
    assert pieces_of(entry).digest == digest
    for other in (
        replace(entry, record=msgspec.structs.replace(entry.record, port=9)),
        replace(entry, position=8),
        replace(entry, verified=False),
        replace(entry, signer="spiffe://m/node/beta"),
        replace(entry, stamp=Stamp(1, 2)),
    ):
        assert pieces_of(other).digest != digest


def test_what_is_kept_is_bounded():
    kept = EncodedInstances(bytes_max=3000)
    for port in range(1, 50):
        registry, entry = held(port=port)
        for _ in range(3):
            assert shown(registry, entry, kept.of(entry)) == anew(registry, entry)
        assert 0 < kept.kept_bytes <= 3000
