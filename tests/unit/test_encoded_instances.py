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
from pmoves_mesh.views.http import encoded
from pmoves_mesh.views.http.encoded import EncodedInstances

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


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"health_output": DECOYS, "maintenance_reason": DECOYS},
        {"metadata": {"node_status": "lost", "last_seen": "never", "in": {"last_seen": "", DECOYS: DECOYS}}},
    ],
)
def test_it_reads_as_if_it_were_encoded_anew(fields: dict[str, Any]):
    registry, entry = held(**fields)
    kept = EncodedInstances()
    assert kept.of(registry, entry) == anew(registry, entry)
    assert kept.of(registry, entry) == anew(registry, entry)


def test_it_shows_what_became_of_the_node_since():
    registry, entry = held()
    kept = EncodedInstances()
    kept.of(registry, entry)
    registry.nodes["alpha"].lost = Stamp(1, 1)
    registry.nodes["alpha"].seen_ms += 60_000
    assert b'"node_status":"lost"' in kept.of(registry, entry)
    assert kept.of(registry, entry) == anew(registry, entry)


def test_it_shows_the_latest_record():
    registry, entry = held()
    kept = EncodedInstances()
    kept.of(registry, entry)
    later = replace(entry, record=msgspec.structs.replace(entry.record, port=9), position=8)
    registry.put(later)
    assert kept.of(registry, later) == anew(registry, later)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded, "_KEPT_BYTES_MAX", 3000)
    kept = EncodedInstances()
    for port in range(1, 50):
        registry, entry = held(port=port)
        assert kept.of(registry, entry) == anew(registry, entry)
        assert kept.kept_bytes <= 3000
