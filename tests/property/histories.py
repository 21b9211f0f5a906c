"""Valid histories of a mesh: what several nodes, witnesses and operators might have said.

A history is drawn as a list of small steps and then played by a model of the nodes, so that
Hypothesis can shrink it and every event in it is one that a correct author could have sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from builders import (
    MESH,
    NOW_MS,
    Authority,
    Identity,
    about,
    announced,
    evicted,
    expired,
    instance,
    left,
    lost,
)
from hypothesis import strategies as st

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import (
    Event,
    InstanceDeregistered,
    InstanceEvicted,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceRegistered,
    InstanceUnregistered,
    InstanceUpdated,
    NodeAnnounced,
)
from pmoves_mesh.core.model import Instance, InstanceKey, ManifestEntry, Stamp
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry

AUTHORITY: Final = Authority()
NODES: Final = ("alpha", "beta", "gamma")
SERVICES: Final = ("rag", "tts")

_IDENTITIES: Final[dict[str, Identity]] = {name: AUTHORITY.identity(name) for name in (*NODES, "omega")}
_OPERATOR: Final = AUTHORITY.identity("root", "operator")


@dataclass(frozen=True)
class Message:
    """One message of the stream."""

    sealed: SealedEvent
    position: int
    author: str


@dataclass
class _Node:
    """What a node's own agent knows."""

    name: str
    incarnation: int = 1
    revision: int = 0
    prev: str = ""
    said: list[Stamp] = field(default_factory=list)
    held: dict[str, tuple[Instance, Stamp]] = field(default_factory=dict)
    latest: NodeAnnounced | None = None

    def head(self) -> dict[str, int | str]:
        self.revision += 1
        self.said.append(Stamp(self.incarnation, self.revision))
        return {"incarnation": self.incarnation, "prev": self.prev}


class World:
    """Plays steps, and keeps the messages that they leave in the stream."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._nodes = {name: _Node(name) for name in NODES}

    def play(self, step: tuple[str, int, int, int]) -> None:
        word, node, service, number = step
        chosen = self._nodes[NODES[node]]
        _STEPS[word](self, chosen, SERVICES[service], number)

    def speaking(self) -> Iterable[_Node]:
        """Yields the nodes that signed anything."""
        return (node for node in self._nodes.values() if node.said)

    def state(self, node: _Node, service: str, number: int) -> None:
        kinds = (InstanceRegistered, InstanceUpdated, InstanceHealthChanged, InstanceMaintained)
        head = node.head()
        record = instance(
            service,
            node.name,
            port=node.revision,
            maintenance=number == 3,
            health_status=("unknown", "healthy", "unhealthy")[number % 3],
            capabilities=("gpu", "rag")[: number % 3],
        )
        node.held[service] = (record, node.said[-1])
        self._sign(node, about(kinds[number], node.revision, record, **head))

    def remove(self, node: _Node, service: str, number: int) -> None:
        kind = InstanceDeregistered if number % 2 else InstanceUnregistered
        record, _ = node.held.pop(service, (instance(service, node.name), None))
        head = node.head()
        self._sign(node, about(kind, node.revision, record, **head))

    def announce(self, node: _Node, _service: str = "", number: int = 0, *, manifest: bool = True) -> None:
        head = node.head()
        lines = [
            ManifestEntry(
                name=record.name,
                id=record.id,
                revision=stamp.revision,
                incarnation=None if stamp.incarnation == node.incarnation else stamp.incarnation,
            )
            for record, stamp in node.held.values()
        ]
        node.latest = announced(
            node.revision, lines if manifest else None, node=node.name, port=number, **head
        )
        self._sign(node, node.latest)

    def announce_bare(self, node: _Node, service: str, number: int) -> None:
        self.announce(node, service, number, manifest=False)

    def repeat(self, node: _Node, _service: str, number: int) -> None:
        if node.latest is None:
            self.announce(node)
        else:
            self._add(msgspec.structs.replace(node.latest, ts=number), _IDENTITIES[node.name])

    def leave(self, node: _Node, _service: str, _number: int) -> None:
        head = node.head()
        self._sign(node, left(node.revision, node.name, **head))

    def restart(self, node: _Node, service: str, number: int) -> None:
        node.incarnation, node.revision, node.prev = node.incarnation + 1, 0, ""
        if number == 0:
            node.held.clear()
        self.announce(node, service, number)

    def lose(self, node: _Node, _service: str, number: int) -> None:
        stamp = _seen(node, number)
        self._add(lost(stamp.revision, node.name, incarnation=stamp.incarnation), _IDENTITIES["omega"])

    def expire(self, node: _Node, service: str, number: int) -> None:
        stamp = _seen(node, number)
        gone = expired(stamp.revision, instance(service, node.name), incarnation=stamp.incarnation)
        self._add(gone, _IDENTITIES["omega"])

    def evict(self, node: _Node, service: str, number: int) -> None:
        one = "1" if number % 2 else None
        self._add(evicted(service, node.name, one, lifted=number > 1), _OPERATOR)

    def say_unsigned(self, node: _Node, service: str, number: int) -> None:
        announcement = {"node": node.name, "host": "10.0.0.1", "port": number}
        record = {"service": service, "data": {"name": service, "host": node.name, "port": number % 2}}
        subject, body = (
            ("mesh.node.announce.v1", announcement),
            ("service.registry.registered", record),
            ("service.registry.unregistered", record),
            ("mesh.node.offline.v1", {"node": node.name}),
        )[number]
        payload = json.dumps(body).encode()
        self._append(SealedEvent(subject=subject, payload=payload), f"{node.name} unsigned")

    def _sign(self, node: _Node, event: Event) -> None:
        sealed = self._add(event, _IDENTITIES[node.name])
        node.prev = envelope.digest(sealed, MESH)

    def _add(self, event: Event, identity: Identity) -> SealedEvent:
        sealed = envelope.seal(event, identity)
        self._append(sealed, "root" if identity is _OPERATOR else event.node)
        return sealed

    def _append(self, sealed: SealedEvent, author: str) -> None:
        self.messages.append(Message(sealed, len(self.messages) + 1, author))


def _seen(node: _Node, number: int) -> Stamp:
    """Returns one of the last stamps of a node: what a witness, perhaps behind, knows of it."""
    return node.said[-1 - number % len(node.said)] if node.said else Stamp(0, 0)


_STEPS: Final[dict[str, Callable[[World, _Node, str, int], None]]] = {
    "state": World.state,
    "remove": World.remove,
    "announce": World.announce,
    "announce without manifest": World.announce_bare,
    "repeat": World.repeat,
    "leave": World.leave,
    "restart": World.restart,
    "lose": World.lose,
    "expire": World.expire,
    "evict": World.evict,
    "say unsigned": World.say_unsigned,
}


def worlds(size_max: int = 20) -> st.SearchStrategy[World]:
    """Returns worlds with a history of up to `size_max` messages."""
    weighted = ("state", "state", "announce", *_STEPS)
    number = st.integers(0, 3)
    step = st.tuples(st.sampled_from(weighted), st.integers(0, 2), st.integers(0, 1), number)
    return st.lists(step, min_size=1, max_size=size_max).map(_played)


def _played(steps: list[tuple[str, int, int, int]]) -> World:
    world = World()
    for step in steps:
        world.play(step)
    return world


def fold(registry: Registry, messages: Iterable[Message]) -> list[Change]:
    """Verifies and applies messages in the order given."""
    changes = []
    for message in messages:
        for one in _unsealed(message.sealed, message.position):
            change = apply(registry, one, position=message.position, time_ms=time_ms(message.position))
            changes.append(change)
    return changes


def fold_record(registry: Registry, record: Record) -> None:
    """Applies a record of the bucket, and what it ended before it."""
    for one in (record.ended, record):
        if one is not None:
            fold(registry, [Message(one.sealed, one.position, "")])


def replayed(messages: Iterable[Message]) -> Registry:
    registry = Registry()
    fold(registry, messages)
    return registry


def bucket(messages: Iterable[Message]) -> dict[str, Record]:
    """Returns what the registry bucket holds once every message was materialised, in order."""
    held: dict[str, Record] = {}
    for message in messages:
        for event, fresh in records_of(message):
            key = records.key_of(event)
            held[key] = records.merged(held.get(key), fresh) or held[key]
            if isinstance(event, NodeAnnounced) and event.instances is not None:
                _drop_unlisted(held, event)
    return held


def records_of(message: Message) -> list[tuple[Event, Record]]:
    """Returns each event that a message states, with its record."""
    position = message.position
    return [
        (
            one.event,
            records.record_of(message.sealed, one.event, position=position, time_ms=time_ms(position)),
        )
        for one in _unsealed(message.sealed, position)
    ]


def _drop_unlisted(held: dict[str, Record], event: NodeAnnounced) -> None:
    listed = {f"service.{one.name}.{event.node}.{one.id}" for one in event.instances or ()}
    for key, record in tuple(held.items()):
        named = records.parse_instance_key(key)
        if named and named.node == event.node and key not in listed and record.stamp <= event.stamp:
            del held[key]


def listed(registry: Registry) -> dict[InstanceKey, Instance]:
    return {entry.key: entry.record for entry in registry.entries() if registry.is_listed(entry)}


def time_ms(position: int) -> int:
    """Returns when the stream took a position."""
    return NOW_MS + position * 1000


def _unsealed(sealed: SealedEvent, position: int) -> tuple[envelope.VerifiedEvent, ...]:
    return AUTHORITY.unseal(sealed, position=position, time_ms=time_ms(position), accept_unsigned=True)


def is_operators(message: Message) -> bool:
    return message.sealed.subject == InstanceEvicted.subject
