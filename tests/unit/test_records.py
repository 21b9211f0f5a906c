"""Records: what the bucket holds for a key, verifiable by whoever reads it, right in any order."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest
from builders import (
    NOW_MS,
    Authority,
    Identity,
    about,
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

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.event import Event, InstanceUnregistered, InstanceUpdated
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.records import Record
from pmoves_mesh.errors import MalformedEvent

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")


def record(event: Event, position: int = 1, identity: Identity = ALPHA) -> Record:
    return records.record_of(
        envelope.seal(event, identity), event, position=position, time_ms=NOW_MS + position
    )


def test_a_record_can_be_verified_by_whoever_reads_it():
    event = registered(1, instance(metadata={"ü": [1.5, "\u2028"]}))
    read = records.decode(records.encode(record(event, 7)))
    (one,) = AUTHORITY.unseal(read.sealed, position=read.position, time_ms=read.time_ms)
    assert one.event == event
    assert one.verified
    assert (read.position, read.time_ms, read.stamp) == (7, NOW_MS + 7, Stamp(1, 1))


def test_a_record_holds_its_event_as_plain_json():
    value = msgspec.json.decode(records.encode(record(announced(1, [line(1)]))))
    assert value["event"]["instances"] == [{"name": "rag", "id": "1", "revision": 1}]
    assert value["subject"] == "mesh.node.announce.v1"
    assert "announce" not in value


def test_an_ending_comes_back_with_what_it_ended():
    merged = records.merged(record(announced(1)), record(left(2), 2))
    assert merged is not None
    read = records.decode(records.encode(merged))
    assert read == merged
    assert read.ended == record_like(read.ended, announced(1))


def record_like(found: Record | None, event: Event) -> Record:
    """Returns the record of `event` with the signature that was found, which differs at each signing."""
    assert found is not None
    return msgspec.structs.replace(record(event, found.position), headers=found.headers)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"position": "1"}'])
def test_bytes_that_are_no_record_are_refused(data: bytes):
    with pytest.raises(MalformedEvent, match="record"):
        records.decode(data)
    assert records.readable(data) is None


def test_a_readable_value_is_its_record():
    one = record(registered(1))
    assert records.readable(records.encode(one)) == one


@pytest.mark.parametrize(
    ("event", "key"),
    [
        (registered(1), "service.rag.alpha.1"),
        (about(InstanceUpdated, 1), "service.rag.alpha.1"),
        (deregistered(1), "service.rag.alpha.1"),
        (expired(1), "service.rag.alpha.1"),
        (announced(1), "node.alpha"),
        (left(1), "node.alpha"),
        (lost(1), "node.alpha"),
        (evicted(), "evicted.rag.alpha._"),
        (evicted(instance_id="1"), "evicted.rag.alpha.1"),
        (revoked("a" * 64), "revoked.root.1.1"),
        (rotated("pem"), "roots"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_event_has_its_key(event: Event, key: str):
    assert records.key_of(event) == key


def test_an_instances_key_names_it():
    key = InstanceKey("rag", "alpha", "A_b-1")
    assert records.parse_instance_key(records.instance_key(key)) == key


@pytest.mark.parametrize("key", ["node.alpha", "service.rag.alpha", "service.a.b.c.d", "evicted.a.b.c", ""])
def test_other_keys_name_no_instance(key: str):
    assert records.parse_instance_key(key) is None


@pytest.mark.parametrize(
    ("event", "removed"),
    [
        (registered(1), False),
        (announced(1), False),
        (left(1), False),
        (lost(1), False),
        (deregistered(1), True),
        (about(InstanceUnregistered, 1), True),
        (expired(1), True),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else type(value).__name__,
)
def test_a_removal_only_remembers_that_its_key_is_gone(event: Event, *, removed: bool):
    assert records.is_removal(record(event)) is removed


@pytest.mark.parametrize(
    ("held", "fresh", "wins"),
    [
        ((registered(1), 1), (registered(2), 2), True),
        ((registered(2), 1), (registered(1), 2), False),
        ((registered(9), 1), (registered(1, incarnation=2), 2), True),
        ((registered(1), 1), (deregistered(2), 2), True),
        ((deregistered(2), 1), (registered(1), 2), False),
        ((registered(1), 2), (registered(1), 1), True),
        ((registered(1), 1), (registered(1), 2), False),
        ((registered(1), 1), (expired(1), 2), True),
        ((expired(1), 1), (registered(2), 2), True),
        ((announced(1), 1), (left(2), 2), True),
        ((announced(1), 1), (lost(1), 2), True),
        ((announced(2), 1), (lost(1), 2), False),
        ((announced(2), 1), (left(1), 2), False),
        ((left(2), 1), (lost(2), 2), False),
        ((lost(2), 1), (left(2), 2), True),
        ((lost(2), 1), (announced(3), 2), True),
        ((evicted(), 1), (evicted(lifted=True), 2), True),
        ((evicted(), 2), (evicted(lifted=True), 1), False),
        ((evicted(), 1), (evicted(), 1), False),
        ((rotated("a"), 1), (rotated("b"), 2), True),
    ],
)
def test_the_newer_record_wins(held: tuple[Event, int], fresh: tuple[Event, int], *, wins: bool):
    result = records.merged(record(*held), record(*fresh))
    if wins:
        assert result is not None
        assert (result.subject, result.position) == (fresh[0].subject, fresh[1])
    else:
        assert result is None


def test_the_first_record_of_a_key_is_held():
    one = record(registered(1))
    assert records.merged(None, one) is one
    assert records.merged(one, one) is None


@pytest.mark.parametrize("ending", [left(4), lost(3)])
def test_a_node_that_went_keeps_its_latest_announcement_in_any_order(ending: Event):
    told = [record(announced(1), 1), record(announced(3), 3), record(ending, 4)]
    for order in permutations(told):
        held: Record | None = None
        for one in order:
            held = records.merged(held, one) or held
        assert held is not None
        assert held.subject == ending.subject
        assert held.ended == told[1]


def test_an_expired_instance_keeps_the_latest_statement_about_it_in_any_order():
    told = [record(registered(1), 1), record(about(InstanceUpdated, 2), 2), record(expired(2), 3)]
    for order in permutations(told):
        held: Record | None = None
        for one in order:
            held = records.merged(held, one) or held
        assert held is not None
        assert (held.subject, held.ended) == (told[2].subject, told[1])


def test_a_node_that_returns_needs_no_memory_of_its_ending():
    held = records.merged(record(announced(1)), record(left(2), 2))
    back = records.merged(held, record(announced(1, incarnation=2), 3))
    assert back is not None
    assert back.ended is None


def test_an_ending_of_what_is_not_known_stands_alone():
    held = records.merged(record(lost(3)), record(lost(4), 2))
    assert held is not None
    assert (held.stamp, held.ended) == (Stamp(1, 4), None)
