"""Comparison: where the stream, the bucket and a replica say different things of the same key.

Each is reduced to a mark per key of the bucket. What has no mark is not compared: memories of
removals, which go by themselves, and notes, which the registry does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from pmoves_mesh.core import records
from pmoves_mesh.core.event import InstanceExpired, NodeAnnounced, NodeLeft, NodeLost
from pmoves_mesh.core.model import NEVER, Stamp
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry

Problem = Literal["missing", "unknown", "older", "newer", "other", "unreadable", "unproved"]
"""What is wrong with a key: it is not there; it should not be; its event is older or newer than it should
be, or another of the same stamp; its value is no record; nothing proves its record."""

_UNMARKED: Final = "noted."


class Mark(NamedTuple):
    """What is said of a key.

    Attributes:
        stamp: of the latest statement.
        said: a node's status, or `expired`; empty for all else.
    """

    stamp: Stamp
    said: str = ""


class Difference(Struct, frozen=True, kw_only=True):
    """A key of which somebody says something else.

    Attributes:
        key: as the bucket has it.
        place: who says otherwise: `bucket`, or `replica`.
    """

    key: str
    place: Literal["bucket", "replica"]
    problem: Problem


class Synced(Struct, frozen=True, kw_only=True):
    """What was mended when stream, bucket and replica were compared.

    Attributes:
        position: up to which this replica knows the stream.
        keys: how many keys the stream gives.
        written: how many of them the bucket lacked or held otherwise.
        deleted: how many keys the bucket held that the stream does not give.
        replica: how many keys this replica held otherwise.
        restated: how many instances of this node the stream did not know.
        left: keys that differ still.
    """

    position: int
    keys: int
    written: int
    deleted: int
    replica: int
    restated: int
    left: tuple[str, ...] = ()


def marks_of(registry: Registry) -> dict[str, Mark]:
    """Returns the marks of what the bucket should hold, by what a registry holds."""
    marks: dict[str, Mark] = {}
    for node in registry.nodes.values():
        if node.announced is not None:
            marks[records.node_key(node.name)] = Mark(node.announced_stamp, node.status)
        for key, entry in node.entries.items():
            said = "expired" if key in node.expired else ""
            marks[records.instance_key(key)] = Mark(entry.stamp, said)
    return marks | marks_in({key: records.decode(value) for key, value in registry.decrees.items()})


def shown_of(registry: Registry) -> dict[str, Mark]:
    """Returns the marks of what readers see of a registry: nodes' statuses and instances' revisions."""
    marks = {records.node_key(name): Mark(NEVER, node.status) for name, node in registry.nodes.items()}
    for entry in registry.entries():
        if registry.is_listed(entry):
            marks[records.instance_key(entry.key)] = Mark(Stamp(0, entry.stamp.revision))
    return marks


def marks_in(held: Mapping[str, Record]) -> dict[str, Mark]:
    """Returns the marks of the bucket's records, by their keys."""
    marks = {}
    for key, record in held.items():
        mark = _mark(record)
        if mark is not None and not key.startswith(_UNMARKED):
            marks[key] = mark
    return {key: mark for key, mark in marks.items() if not _is_outlived(key, held[key], marks)}


def _is_outlived(key: str, record: Record, marks: Mapping[str, Mark]) -> bool:
    """Returns whether a record only remembers an expiry after which the node announced itself again.

    What its manifest lists it has taken back, and what it leaves out is gone.
    """
    instance = records.parse_instance_key(key)
    if instance is None or record.subject != InstanceExpired.subject:
        return False
    node = marks.get(records.node_key(instance.node))
    return node is not None and records.is_taken_back(record, node.stamp)


def compare(
    place: Literal["bucket", "replica"], wanted: Mapping[str, Mark], held: Mapping[str, Mark]
) -> list[Difference]:
    """Returns what is held otherwise than it is wanted, by key."""
    found = []
    for key in sorted(wanted.keys() | held.keys()):
        problem = _problem(wanted.get(key), held.get(key))
        if problem is not None:
            found.append(Difference(key=key, place=place, problem=problem))
    return found


def _problem(wanted: Mark | None, held: Mark | None) -> Problem | None:
    if wanted is None or held is None:
        return "missing" if held is None else "unknown"
    if held.stamp != wanted.stamp:
        return "older" if held.stamp < wanted.stamp else "newer"
    return None if held.said == wanted.said else "other"


def _mark(record: Record) -> Mark | None:
    match record.subject:
        case NodeAnnounced.subject:
            return Mark(record.stamp, "alive")
        case NodeLeft.subject | NodeLost.subject:
            said = "left" if record.subject == NodeLeft.subject else "lost"
            return None if record.ended is None else Mark(record.ended.stamp, said)
        case InstanceExpired.subject:
            return None if record.ended is None else Mark(record.ended.stamp, "expired")
        case _:
            return None if records.is_removal(record) else Mark(record.stamp)
