"""What folding an event in did to the registry."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from pmoves_mesh.core.model import InstanceKey

Outcome = Literal["applied", "repeated", "outdated", "revoked"]


class Change(Struct, frozen=True, kw_only=True):
    """What folding one event in did.

    Attributes:
        outcome: `repeated` was known already, `outdated` is older than what is held, `revoked` was
            signed by a certificate that no longer holds.
        instances: whose record or visibility changed.
        nodes: whose record or status changed.
        missing: what a manifest lists and the registry does not hold: to be fetched.
        gap: the event's `prev` did not name the event held before it.
    """

    outcome: Outcome
    instances: tuple[InstanceKey, ...] = ()
    nodes: tuple[str, ...] = ()
    missing: tuple[InstanceKey, ...] = ()
    gap: bool = False


REPEATED: Final = Change(outcome="repeated")
OUTDATED: Final = Change(outcome="outdated")
REVOKED: Final = Change(outcome="revoked")
