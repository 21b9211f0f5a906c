"""The past as readers get it: the events as they stand, the registry at a moment, and what differs.

What moves without news is no difference: when an instance was last seen, at which revision and position
its record stands, and in which words its last check reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from pmoves_mesh.core import query
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.moments import Moment
from pmoves_mesh.core.query import Filter, InstanceView, NodeView, iso
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import MeshError

_QUIET_OF_INSTANCES: Final = frozenset({"last_seen", "revision", "position", "health_output"})
_QUIET_OF_NODES: Final = frozenset({"last_seen", "revision", "position", "gaps"})

_View = TypeVar("_View", InstanceView, NodeView)


class Spot(Struct, frozen=True, kw_only=True):
    """A place in the stream.

    Attributes:
        time: ISO 8601, UTC: when the stream took the event there; empty if there is none.
    """

    position: int
    time: str


class CheckpointRef(Struct, frozen=True, kw_only=True):
    """The snapshot that an answer rests on.

    Attributes:
        signer: SPIFFE ID of the node that made it.
    """

    position: int
    signer: str


class MomentView(Struct, frozen=True, kw_only=True):
    """Which moment an answer is of.

    Attributes:
        position: of the last event that had happened by then.
        time: when the stream took it, ISO 8601, UTC.
        checkpoint: the snapshot that what came after it was folded into; null if there was none.
    """

    position: int
    time: str
    checkpoint: CheckpointRef | None = None


class EventView(Struct, frozen=True, kw_only=True):
    """An event as it stands in the stream, and what its signature is worth.

    Attributes:
        time: ISO 8601, UTC: when the stream took it.
        type: what it says it is; its subject if it says nothing.
        verified: whether it is signed by whoever may say it, with a certificate that held then.
        signer: SPIFFE ID of who signed it; empty if nobody known did.
        fingerprint: of the certificate that it names.
        refused: why no agent applies it; empty if they do.
        size: bytes of the payload.
        data: the payload; null if it is no JSON.
    """

    position: int
    time: str
    subject: str
    type: str
    node: str
    service: str
    id: str
    incarnation: int
    revision: int
    verified: bool
    signer: str
    fingerprint: str
    refused: str
    size: int
    data: Any


class ServicesAt(Struct, frozen=True, kw_only=True, tag=True):
    """Which instances were listed at a moment?"""

    at: Moment
    wanted: Filter


class NodesAt(Struct, frozen=True, kw_only=True, tag=True):
    """Which nodes were known at a moment?"""

    at: Moment


class WhatChanged(Struct, frozen=True, kw_only=True, tag=True):
    """What differs between two moments?"""

    begin: Moment
    end: Moment


class Selection(Struct, frozen=True, kw_only=True):
    """Which events a reader wants; what is empty does not matter.

    Attributes:
        subject: a NATS subject, which may hold wildcards.
        type: what the event says it is, such as `registered`.
    """

    subject: str = ""
    type: str = ""
    node: str = ""
    service: str = ""
    id: str = ""


class EventsWanted(Struct, frozen=True, kw_only=True, tag=True):
    """Which events are there?

    Attributes:
        after: only events behind this position.
        before: only events ahead of this position.
        limit: how many at most.
        newest_first: in which order.
    """

    selection: Selection
    since: Moment | None = None
    until: Moment | None = None
    after: int | None = None
    before: int | None = None
    limit: int = 100
    newest_first: bool = True


class EventsFollowed(Struct, frozen=True, kw_only=True, tag=True):
    """Which events come?

    Attributes:
        after: tell also of what stands behind this position already; None begins with what comes.
    """

    selection: Selection
    after: int | None = None


class KeepUpTo(Struct, frozen=True, kw_only=True, tag=True):
    """Not a question: make the snapshots that are missing up to a position."""

    position: int


Question = ServicesAt | NodesAt | WhatChanged | EventsWanted | EventsFollowed | KeepUpTo


class Told(Struct, frozen=True, kw_only=True):
    """An answer, or a part of one that has several.

    Attributes:
        body: JSON.
        position: of the stream, that it is of.
    """

    body: bytes
    position: int


class HistoryBusyError(MeshError):
    """So many already ask for the past here that one more would keep them waiting."""

    retryable = True

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        super().__init__(f"at most {limit} {what} at a time; ask again in a moment")


class Changed(Struct, Generic[_View], frozen=True, kw_only=True):
    """One that was there before and after, and is not the same.

    Attributes:
        fields: in which it differs.
    """

    before: _View
    after: _View
    fields: list[str]


class NodeChanges(Struct, frozen=True, kw_only=True):
    """Nodes that came, went, or are not the same."""

    added: list[NodeView]
    removed: list[NodeView]
    changed: list[Changed[NodeView]]


class Shown(Struct, frozen=True, kw_only=True):
    """What readers see of a registry."""

    instances: dict[InstanceKey, InstanceView]
    nodes: dict[str, NodeView]


def shown(registry: Registry) -> Shown:
    """Returns what readers see of a registry, which may change afterwards."""
    return Shown(
        instances={
            entry.key: query.instance_view(registry, entry) for entry in query.find(registry, Filter())
        },
        nodes={name: query.node_view(node) for name, node in sorted(registry.nodes.items())},
    )


def changes(before: Shown, after: Shown) -> dict[str, Any]:
    """Returns what differs, as `/api/diff` shows it, by name, node and id."""
    added, removed, changed = _compared(before.instances, after.instances, _QUIET_OF_INSTANCES)
    nodes = _compared(before.nodes, after.nodes, _QUIET_OF_NODES)
    return {
        "added": added,
        "removed": removed,
        "changed": changed,
        "nodes": NodeChanges(added=nodes[0], removed=nodes[1], changed=nodes[2]),
    }


def spot(position: int, time_ms: int) -> Spot:
    """Returns a place in the stream as readers see it."""
    return Spot(position=position, time=iso(time_ms))


def _compared(
    before: Mapping[Any, _View], after: Mapping[Any, _View], quiet: frozenset[str]
) -> tuple[list[_View], list[_View], list[Changed[_View]]]:
    changed = []
    for key in sorted(before.keys() & after.keys()):
        fields = _differing(before[key], after[key], quiet)
        if fields:
            changed.append(Changed(before=before[key], after=after[key], fields=fields))
    return (
        [after[key] for key in sorted(after.keys() - before.keys())],
        [before[key] for key in sorted(before.keys() - after.keys())],
        changed,
    )


def _differing(before: _View, after: _View, quiet: frozenset[str]) -> list[str]:
    if before is after:
        return []
    fields = before.__struct_fields__
    pairs = zip(fields, msgspec.structs.astuple(before), msgspec.structs.astuple(after), strict=True)
    return [name for name, one, other in pairs if one != other and name not in quiet]
