"""The registry is a function of the set of events, however they come."""

from __future__ import annotations

from builders import MESH
from histories import (
    Message,
    World,
    bucket,
    fold,
    fold_record,
    is_operators,
    listed,
    records_of,
    replayed,
    worlds,
)
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core import records, snapshot
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry


@given(worlds(), st.data())
def test_any_order_with_any_repetition_gives_the_same_state(world: World, data: st.DataObject):
    again = data.draw(st.lists(st.sampled_from(world.messages), max_size=5))
    shuffled = data.draw(st.permutations(world.messages + again))
    assert replayed(shuffled).state() == replayed(world.messages).state()


@given(worlds(), st.integers(0, 20))
def test_a_second_replay_changes_nothing_that_a_reader_sees(world: World, begin: int):
    registry = replayed(world.messages)
    before, version = registry.state(), registry.version
    changes = fold(registry, world.messages[begin:])
    assert registry.state() == before
    assert registry.version == version
    assert {change.outcome for change in changes} <= {"repeated", "outdated"}


@given(worlds(), st.integers(0, 20))
def test_a_snapshot_at_any_position_and_the_tail_give_the_full_replay(world: World, cut: int):
    before = replayed(world.messages[:cut])
    restored = snapshot.load(snapshot.dump(before, MESH), MESH)
    assert restored.state() == before.state()
    fold(restored, world.messages[cut:])
    full = replayed(world.messages)
    assert restored.state() == full.state()
    assert snapshot.dump(restored, MESH) == snapshot.dump(full, MESH)


@given(worlds(), st.integers(0, 20), st.data())
def test_the_bucket_in_any_order_and_the_tail_give_what_the_full_replay_lists(
    world: World, cut: int, data: st.DataObject
):
    restored = Registry()
    held = bucket(world.messages[:cut])
    for record in data.draw(st.permutations(list(held.values()))):
        fold_record(restored, records.decode(records.encode(record)))
    fold(restored, world.messages[cut:])
    full = replayed(world.messages)
    assert listed(restored) == listed(full)
    assert {name: node.status for name, node in restored.nodes.items() if node.entries} == {
        name: node.status for name, node in full.nodes.items() if node.entries
    }


@given(worlds(), st.data())
def test_what_a_replica_lost_comes_back_with_the_next_announcements(world: World, data: st.DataObject):
    history = tuple(world.messages)
    kept = data.draw(st.lists(st.booleans(), min_size=len(history), max_size=len(history)))
    for node in world.speaking():
        world.announce(node)
    tail = world.messages[len(history) :]
    lossy = Registry()
    unsigned = [not message.sealed.headers for message in history]
    heard = [
        message
        for message, keep, cannot_heal in zip(history, kept, unsigned, strict=True)
        if keep or cannot_heal or is_operators(message)
    ]
    fold(lossy, heard)
    _fetch(lossy, fold(lossy, tail), bucket(history))
    full = replayed(world.messages)
    assert listed(lossy) == listed(full)
    assert all(not node.missing for node in lossy.nodes.values())


def _fetch(registry: Registry, changes: list[Change], held: dict[str, Record]) -> None:
    for key in {key for change in changes for key in change.missing}:
        fold_record(registry, held[records.instance_key(key)])


@given(worlds(), st.data())
def test_any_order_of_the_same_records_ends_with_the_same_bucket_value(world: World, data: st.DataObject):
    inorder = _merged_by_key(world.messages)
    again = data.draw(st.lists(st.sampled_from(world.messages), max_size=5))
    assert _merged_by_key(data.draw(st.permutations(world.messages + again))) == inorder


@given(worlds(), worlds())
def test_merging_what_is_held_already_changes_nothing(one: World, other: World):
    for world in (one, other):
        for key, record in _merged_by_key(world.messages).items():
            assert records.merged(record, record) is None, key


def _merged_by_key(messages: list[Message]) -> dict[str, Record]:
    held: dict[str, Record] = {}
    for message in messages:
        for event, fresh in records_of(message):
            key = records.key_of(event)
            held[key] = records.merged(held.get(key), fresh) or held[key]
    return held
