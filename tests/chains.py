"""Streams for tests of the audit: what nodes said, each event naming the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from builders import MESH, NOW_MS, Authority, Identity, about, announced, instance

from pmoves_mesh.core import envelope
from pmoves_mesh.core.audit import Audit, Finding, Report
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import (
    Event,
    InstanceDeregistered,
    InstanceUnregistered,
    InstanceUpdated,
    NodeAnnounced,
)
from pmoves_mesh.errors import RemoteProtocolError


@dataclass
class Node:
    """A node that states one event after another, as the agent's author does."""

    name: str
    identity: Identity
    incarnation: int = 1
    revision: int = 0
    head: str = ""

    def restart(self, *, disk_lost: bool = False, incarnation: int | None = None) -> None:
        self.incarnation = self.incarnation + 1 if incarnation is None else incarnation
        self.revision = 0
        if disk_lost:
            self.head = ""

    def update(self) -> SealedEvent:
        return self._state(about(InstanceUpdated, 0, instance(node=self.name)))

    def announce(self) -> SealedEvent:
        return self._state(announced(0, node=self.name))

    def repeat(self, announcement: SealedEvent, number: int = 1) -> SealedEvent:
        """Returns an announcement once more, as a repetition has it: the same stamp, its own message id."""
        event = msgspec.json.decode(announcement.payload, type=NodeAnnounced)
        return envelope.seal(event, self.identity, message_id=f"{envelope.stamped_id(event)}.{number}")

    def remove(self) -> tuple[SealedEvent, SealedEvent]:
        """Returns a removal, and the same under its older word."""
        record = instance(node=self.name)
        place = {"incarnation": self.incarnation, "prev": self.head}
        alias = about(InstanceUnregistered, self.revision + 1, record, **place)
        return self._state(about(InstanceDeregistered, 0, record)), envelope.seal(alias, self.identity)

    def _state(self, event: Any) -> SealedEvent:
        self.revision += 1
        placed: Event = msgspec.structs.replace(
            event, incarnation=self.incarnation, revision=self.revision, prev=self.head
        )
        sealed = envelope.seal(placed, self.identity)
        self.head = envelope.digest(sealed, MESH)
        return sealed


def audited(authority: Authority, stream: list[SealedEvent], *, first: int = 1) -> Report:
    """Returns what an audit finds in a stream that begins at a position."""
    audit = Audit(first)
    for position, sealed in enumerate(stream, first):
        take(audit, authority, sealed, position)
    return audit.report()


def take(audit: Audit, authority: Authority, sealed: SealedEvent, position: int) -> None:
    try:
        verified = authority.unseal(sealed, position=position, time_ms=NOW_MS)
    except RemoteProtocolError as error:
        digest = envelope.digest(sealed, MESH)
        audit.refuse(sealed, error, position=position, signer="somebody", digest=digest)
    else:
        audit.accept(sealed, verified, position)


def found(report: Report) -> list[tuple[int, str]]:
    """Returns position and reason of each finding."""
    return [place_of(finding) for finding in report.findings]


def place_of(finding: Finding) -> tuple[int, str]:
    return finding.position, finding.reason
