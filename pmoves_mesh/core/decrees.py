"""What operators decree: evictions, revocations and the roots, in the order of the stream's positions.

A decree of before this stream, which was made anew or restored since, has position 0: it holds for
everything in this stream, and any later word outranks it.
"""

from __future__ import annotations

from typing import Final

from pmoves_mesh.core.change import REPEATED, Change
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import CertificatesRevoked, InstanceEvicted, RootsRotated
from pmoves_mesh.core.registry import Registry, Roots

_BEFORE: Final = 2**62
"""Larger than every time in milliseconds: less this, the times of earlier decrees are below all positions."""


def decreed(
    registry: Registry, event: InstanceEvicted | CertificatesRevoked | RootsRotated, position: int
) -> Change:
    """Folds in an operator's word, which the position in the stream orders; 0 is before all of them."""
    match event:
        case InstanceEvicted():
            return _evicted(registry, event, position)
        case CertificatesRevoked():
            return _revoked(registry, event, position)
        case RootsRotated():
            return _rotated(registry, event, position)


def is_revoked(registry: Registry, verified: VerifiedEvent, *, position: int) -> bool:
    """Returns whether the certificate that signed an event no longer held at its position."""
    revoked_at = registry.revoked.get(verified.fingerprint)
    return revoked_at is not None and (position == 0 or position > revoked_at)


def roots_of(event: RootsRotated, position: int) -> Roots:
    """Returns the CA certificates as a rotation at a position of the stream leaves them."""
    retired = tuple(
        (root.certificate, (root.position or position) if position else 0) for root in event.retired
    )
    return Roots(position=position, certificates=event.roots, retired=retired)


def _evicted(registry: Registry, event: InstanceEvicted, position: int) -> Change:
    key = (event.service, event.node, event.id)
    position = position or event.incarnation - _BEFORE
    held = registry.evictions.get(key)
    if held is not None and position <= held[0]:
        return REPEATED
    registry.evictions[key] = (position, not event.lifted)
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
    registry.revoked.update(dict.fromkeys(fresh, position))
    # A node's records may be signed by earlier certificates than its announcement, so all are looked at.
    concerned = tuple(entry.key for entry in registry.entries() if entry.fingerprint in fresh)
    nodes = tuple(node.name for node in registry.nodes.values() if node.fingerprint in fresh)
    return Change(outcome="applied", instances=concerned, nodes=nodes)


def _rotated(registry: Registry, event: RootsRotated, position: int) -> Change:
    if registry.roots.certificates and position <= registry.roots.position:
        return REPEATED
    registry.roots = roots_of(event, position)
    return Change(outcome="applied")
