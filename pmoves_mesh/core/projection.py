"""The projection: folds verified events into the registry, one at a time.

It compares each event's stamp with what is held for its key, so that repetitions, reordering
and replays change nothing: the same set of events gives the same registry in any order. Times
are the stream's; there is no other clock here.
"""

from __future__ import annotations

from typing import Final, assert_never

from pmoves_mesh.core import decrees
from pmoves_mesh.core.change import OUTDATED, REPEATED, REVOKED, Change
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    EnrolmentRefused,
    IdentityIssued,
    InstanceDeregistered,
    InstanceEvicted,
    InstanceExpired,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceRegistered,
    InstanceUnregistered,
    InstanceUpdated,
    NodeAnnounced,
    NodeCloned,
    NodeLeft,
    NodeLost,
    Noted,
    Removed,
    RootsRotated,
    Stated,
)
from pmoves_mesh.core.model import NEVER, InstanceKey, Stamp
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry, Turn

REMOVAL_KEPT_MS: Final = 60 * 60 * 1000
"""How long a removal is remembered for a node whose announcements carry no manifest."""


def apply(registry: Registry, verified: VerifiedEvent, *, position: int, time_ms: int) -> Change:
    """Folds one event into the registry, in place.

    Args:
        registry: what it is folded into.
        verified: an event from `envelope.unseal`.
        position: its place in the stream; 0 for an own event that is not there yet.
        time_ms: when the stream took it, unix milliseconds.
    """
    registry.position = max(registry.position, position)
    registry.folded += 1
    if decrees.is_revoked(registry, verified, position=position):
        return REVOKED
    change = _dispatch(registry, verified, position, time_ms)
    if change.instances or change.nodes:
        registry.version += 1
    return change


def _dispatch(registry: Registry, verified: VerifiedEvent, position: int, time_ms: int) -> Change:
    event = verified.event
    match event:
        case NodeAnnounced():
            change = _announced(registry, verified, event, position, time_ms)
        case NodeLeft():
            change = _left(registry, verified, event, position, time_ms)
        case NodeLost():
            change = _lost(registry, event)
        case InstanceRegistered() | InstanceUpdated() | InstanceHealthChanged() | InstanceMaintained():
            change = _stated(registry, verified, event, position, time_ms)
        case InstanceDeregistered() | InstanceUnregistered():
            change = _removed(registry, verified, event, position, time_ms)
        case InstanceExpired():
            change = _expired(registry, event)
        case InstanceEvicted() | CertificatesRevoked() | RootsRotated():
            change = decrees.decreed(registry, event, Turn(position, time_ms))
        case NodeCloned() | IdentityIssued() | EnrolmentRefused():
            change = _noted(registry, verified, event, position, time_ms)
        case _:
            assert_never(event)
    return change


def _announced(
    registry: Registry, verified: VerifiedEvent, event: NodeAnnounced, position: int, time_ms: int
) -> Change:
    node = _node(registry, event.node)
    _see(node, position, time_ms)
    if _is_shadowed(node, event.incarnation):
        return OUTDATED
    if event.stamp <= node.announced_stamp:
        return _announced_before(registry, node, verified, event, position)
    before = node.status
    gap, dropped = _speak(registry, node, verified, event.stamp)
    _introduce(node, verified, event, position)
    dropped += _follow_manifest(registry, node, event)
    if event.instances is None:
        node.removed = {
            key: kept for key, kept in node.removed.items() if time_ms - kept[1] < REMOVAL_KEPT_MS
        }
    changed = tuple(node.entries) if node.status != before else ()
    return Change(
        outcome="applied",
        instances=tuple(dict.fromkeys((*dropped, *changed))),
        nodes=(node.name,),
        missing=tuple(node.missing),
        gap=gap,
    )


def _announced_before(
    registry: Registry, node: NodeEntry, verified: VerifiedEvent, event: NodeAnnounced, position: int
) -> Change:
    """Takes note of a repeated announcement, or of one that arrives after a later one."""
    if event.stamp == node.announced_stamp:
        # The first copy in the stream is the one that counts.
        if position and (node.position == 0 or position < node.position):
            _introduce(node, verified, event, position)
        # Whatever made this registry differ from the manifest since then is found by the repetition.
        dropped = _follow_manifest(registry, node, event)
        return Change(outcome="repeated", instances=tuple(dropped), missing=tuple(node.missing))
    if event.instances is None or event.stamp <= node.floor:
        return OUTDATED
    # The later announcement had no manifest, so this one's still tells what is gone.
    dropped = _follow_manifest(registry, node, event)
    return Change(outcome="applied", instances=tuple(dropped), missing=tuple(node.missing))


def _introduce(node: NodeEntry, verified: VerifiedEvent, event: NodeAnnounced, position: int) -> None:
    node.announced = event
    node.announced_stamp = event.stamp
    node.position = position
    node.verified = verified.verified
    node.signer = verified.signer
    node.fingerprint = verified.fingerprint


def _follow_manifest(registry: Registry, node: NodeEntry, event: NodeAnnounced) -> list[InstanceKey]:
    """Drops what the manifest leaves out or knows only by an earlier word, and notes what is not held.

    A later word than the manifest's, though not later than the manifest itself, is that of a life
    that this one knows nothing of: who hears it after the manifest does not believe it either.
    """
    if event.instances is None:
        return []
    listed = {
        InstanceKey(line.name, node.name, line.id): Stamp(
            event.incarnation if line.incarnation is None else line.incarnation, line.revision
        )
        for line in event.instances
    }
    floor = event.stamp
    dropped = [key for key, entry in node.entries.items() if listed.get(key, NEVER) < entry.stamp <= floor]
    for key in dropped:
        registry.drop(key)
    node.floor = floor
    node.removed = {key: kept for key, kept in node.removed.items() if kept[0] > floor}
    node.missing = {
        key: stamp
        for key, stamp in listed.items()
        if key not in node.removed and ((held := node.entries.get(key)) is None or held.stamp < stamp)
    }
    return dropped


def _left(
    registry: Registry, verified: VerifiedEvent, event: NodeLeft, position: int, time_ms: int
) -> Change:
    node = _node(registry, event.node)
    _see(node, position, time_ms)
    if event.stamp <= node.left:
        return REPEATED if event.stamp == node.left else OUTDATED
    if _is_shadowed(node, event.incarnation):
        return OUTDATED
    before = node.status
    dropped = _outrank(registry, node, event.stamp)
    gap = _chain(node, verified, event.stamp)
    node.left = event.stamp
    return _spoken_change(node, before, tuple(dropped), gap=gap)


def _lost(registry: Registry, event: NodeLost) -> Change:
    node = _node(registry, event.node)
    if event.stamp <= node.lost:
        return REPEATED if event.stamp == node.lost else OUTDATED
    before = node.status
    node.lost = event.stamp
    return _spoken_change(node, before, (), gap=False)


def _stated(
    registry: Registry, verified: VerifiedEvent, event: Stated, position: int, time_ms: int
) -> Change:
    node = _node(registry, event.node)
    _see(node, position, time_ms)
    stamp = event.stamp
    stated = InstanceEntry(
        record=event.data,
        stamp=stamp,
        position=position,
        time_ms=time_ms,
        verified=verified.verified,
        signer=verified.signer,
        fingerprint=verified.fingerprint,
    )
    key = stated.key
    held = node.entries.get(key)
    if held is not None and held.stamp == stamp:
        return _settle(registry, held, stated)
    if _is_outdated(node, held, stated):
        return OUTDATED
    before = node.status
    gap, dropped = _speak(registry, node, verified, stamp)
    registry.put(stated)
    node.removed.pop(key, None)
    node.missing.pop(key, None)
    return _spoken_change(node, before, (key, *dropped), gap=gap)


def _settle(registry: Registry, held: InstanceEntry, copy: InstanceEntry) -> Change:
    """Takes note of a repeated record; the first copy in the stream is the one that counts."""
    if copy.position and (held.position == 0 or copy.position < held.position):
        registry.put(copy)
        if held.position == 0 and registry.is_listed(copy):
            return Change(outcome="repeated", instances=(copy.key,))
    return REPEATED


def _is_outdated(node: NodeEntry, held: InstanceEntry | None, stated: InstanceEntry) -> bool:
    """Returns whether something newer than what is stated is known of this instance."""
    key, stamp = stated.key, stated.stamp
    if _is_shadowed(node, stamp.incarnation) or (held is not None and stamp < held.stamp):
        return True
    if key in node.removed and stamp <= node.removed[key][0]:
        return True
    return stamp <= node.floor and node.missing.get(key) != stamp


def _removed(
    registry: Registry, verified: VerifiedEvent, event: Removed, position: int, time_ms: int
) -> Change:
    node = _node(registry, event.node)
    _see(node, position, time_ms)
    key, stamp = event.key, event.stamp
    held = node.entries.get(key)
    if stamp <= node.floor or _is_shadowed(node, event.incarnation) or (held and held.stamp > stamp):
        return OUTDATED
    if key in node.removed and stamp <= node.removed[key][0]:
        return REPEATED
    before = node.status
    gap, dropped = _speak(registry, node, verified, stamp)
    if key in node.entries:
        registry.drop(key)
    node.removed[key] = (stamp, time_ms)
    node.missing.pop(key, None)
    return _spoken_change(node, before, (key, *dropped), gap=gap)


def _spoken_change(node: NodeEntry, before: str, changed: tuple[InstanceKey, ...], *, gap: bool) -> Change:
    if node.status == before:
        return Change(outcome="applied", instances=tuple(dict.fromkeys(changed)), gap=gap)
    # A node that comes or goes takes all its instances into discovery, or out of it.
    every = dict.fromkeys((*changed, *node.entries))
    return Change(outcome="applied", instances=tuple(every), nodes=(node.name,), gap=gap)


def _expired(registry: Registry, event: InstanceExpired) -> Change:
    node = _node(registry, event.node)
    if event.stamp < node.spoken:
        return OUTDATED
    if event.stamp <= node.expired.get(event.key, NEVER):
        return REPEATED
    held = node.entries.get(event.key)
    was_listed = held is not None and registry.is_listed(held)
    node.expired[event.key] = event.stamp
    return Change(outcome="applied", instances=(event.key,) if was_listed else ())


def _noted(registry: Registry, verified: VerifiedEvent, event: Noted, position: int, time_ms: int) -> Change:
    node = _node(registry, event.node)
    _see(node, position, time_ms)
    if event.stamp <= node.latest:
        return REPEATED if event.stamp == node.latest else OUTDATED
    before = node.status
    gap, dropped = _speak(registry, node, verified, event.stamp)
    return _spoken_change(node, before, tuple(dropped), gap=gap)


def _node(registry: Registry, name: str) -> NodeEntry:
    node = registry.nodes.get(name)
    if node is None:
        node = registry.nodes[name] = NodeEntry(name)
    return node


def _see(node: NodeEntry, position: int, time_ms: int) -> None:
    """Notes when the stream took something from a node; what is not there yet has only a local time."""
    if position:
        node.seen_ms = max(node.seen_ms, time_ms)


def _is_shadowed(node: NodeEntry, incarnation: int) -> bool:
    """Returns whether an event of this incarnation is unsigned, and its node signs its own."""
    return incarnation == 0 and node.latest.incarnation > 0


def _speak(
    registry: Registry, node: NodeEntry, verified: VerifiedEvent, stamp: Stamp
) -> tuple[bool, list[InstanceKey]]:
    """Notes that the node itself said something; returns whether a link is missing, and what it changed."""
    changed = _outrank(registry, node, stamp)
    gap = _chain(node, verified, stamp)
    node.spoken = max(node.spoken, stamp)
    if not node.expired:
        return gap, changed
    revived = [key for key, stamp in node.expired.items() if stamp < node.spoken]
    for key in revived:
        del node.expired[key]
    return gap, changed + [key for key in revived if key in node.entries]


def _outrank(registry: Registry, node: NodeEntry, stamp: Stamp) -> list[InstanceKey]:
    """Drops what was said of a node unsigned, once the node signs; returns which instances that were."""
    if stamp.incarnation == 0 or node.latest.incarnation > 0:
        return []
    node.announced, node.announced_stamp = None, NEVER
    node.position, node.head = 0, ""
    dropped = [key for key, entry in node.entries.items() if entry.stamp.incarnation == 0]
    for key in dropped:
        registry.drop(key)
    return dropped


def _chain(node: NodeEntry, verified: VerifiedEvent, stamp: Stamp) -> bool:
    """Follows the chain of `prev` digests; returns whether a link is missing or wrong."""
    event = verified.event
    if stamp <= node.latest:
        return False
    gap = bool(node.head) and event.incarnation > 0 and event.prev != node.head
    node.head = verified.digest
    node.gaps += gap
    return gap
