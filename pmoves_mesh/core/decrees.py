"""What operators decree: evictions, revocations and the roots, in the order of the stream's positions.

A decree of before this stream, which was made anew or restored since, has position 0, and its time is
what orders it: a stream that was restored from an older backup brings older words back, which must
not outrank what was decreed after them and is no longer in it.
"""

from __future__ import annotations

from typing import Final

from pmoves_mesh.core.change import REPEATED, Change
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import CertificatesRevoked, InstanceEvicted, RootsRotated
from pmoves_mesh.core.registry import Eviction, Registry, Roots, Turn

DECREES: Final = (InstanceEvicted, CertificatesRevoked, RootsRotated)


def decreed(
    registry: Registry, event: InstanceEvicted | CertificatesRevoked | RootsRotated, turn: Turn
) -> Change:
    """Folds in an operator's word."""
    match event:
        case InstanceEvicted():
            return _evicted(registry, event, turn)
        case CertificatesRevoked():
            return _revoked(registry, event, turn.position)
        case RootsRotated():
            return _rotated(registry, event, turn)


def is_revoked(registry: Registry, verified: VerifiedEvent, *, position: int) -> bool:
    """Returns whether the certificate that signed an event no longer held at its position."""
    revoked_at = registry.revoked.get(verified.fingerprint)
    return revoked_at is not None and (position == 0 or position > revoked_at)


def roots_of(event: RootsRotated, turn: Turn) -> Roots:
    """Returns the CA certificates as a rotation leaves them."""
    position = turn.position
    retired = tuple(
        (root.certificate, (root.position or position) if position else 0) for root in event.retired
    )
    return Roots(turn=turn, certificates=event.roots, retired=retired)


def _evicted(registry: Registry, event: InstanceEvicted, turn: Turn) -> Change:
    key = (event.service, event.node, event.id)
    held = registry.evictions.get(key)
    if held is not None and not turn.is_after(held.turn):
        return REPEATED
    registry.decreed += 1
    registry.evictions[key] = Eviction(turn, evicts=not event.lifted)
    concerned = tuple(
        entry.key
        for entry in registry.of_service(event.service)
        if entry.record.node == event.node and event.id in {None, entry.record.id}
    )
    return Change(outcome="applied", instances=concerned)


def _revoked(registry: Registry, event: CertificatesRevoked, position: int) -> Change:
    fresh = [name for name in event.fingerprints if position < registry.revoked.get(name, position + 1)]
    if not fresh:
        return REPEATED
    registry.decreed += 1
    registry.revoked.update(dict.fromkeys(fresh, position))
    # A node's records may be signed by earlier certificates than its announcement, so all are looked at.
    concerned = tuple(entry.key for entry in registry.entries() if entry.fingerprint in fresh)
    nodes = tuple(node.name for node in registry.nodes.values() if node.fingerprint in fresh)
    return Change(outcome="applied", instances=concerned, nodes=nodes)


def _rotated(registry: Registry, event: RootsRotated, turn: Turn) -> Change:
    if registry.roots.certificates and not turn.is_after(registry.roots.turn):
        return REPEATED
    registry.roots = roots_of(event, turn)
    return Change(outcome="applied")
