"""A mesh's DNS for tests: what nodes say goes into a registry, and questions are asked as bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import dns.message
import dns.rdatatype
from builders import MESH, NOW_MS, Story, announced, instance, registered
from dns.message import Message
from dns.rcode import Rcode

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.model import Instance
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.dns.responder import Responder
from pmoves_mesh.views.dns.wire import Ttls

TTLS: Final = Ttls(positive_s=5, negative_s=1)
LOCAL_BYTES_MAX: Final = 4096


class PinnedClock(SystemClock):
    """The host's clock, but the date is always one at which the test's certificates hold."""

    def now_ms(self) -> int:
        return NOW_MS


class Answering:
    """A node `alpha` that answers DNS from a registry; it was informed unless it is told otherwise."""

    def __init__(self, *events: Event, informed: bool = True) -> None:
        self.story = Story()
        self.clock = PinnedClock()
        client = MemoryClient(MemoryBroker(self.clock), random.Random(1))
        verifier = Verifier(self.story.authority.trust, MemoryBucket(client, "identities"), self.clock)
        self.replica = Replica(verifier, MemoryLog(client), MemoryBucket(client, "registry"), self.clock)
        self.replica.restore(self.story.registry, "memory" if informed else "")
        self.observed: list[tuple[str, float]] = []
        self.responder = Responder(
            self.replica,
            self.clock,
            node="alpha",
            ttls=TTLS,
            rng=random.Random(1),
            observe=lambda outcome, seconds: self.observed.append((outcome, seconds)),
        )
        self._revision = 0
        if events:
            self.story.tell(*events)

    def hold(self, *records: Instance) -> None:
        """Lets the owners of instances register them."""
        for record in records:
            self._revision += 1
            self.story.tell(registered(self._revision, record))

    def announce(self, node: str, **fields: Any) -> None:
        """Lets a node say who it is."""
        self._revision += 1
        self.story.tell(announced(self._revision, node=node, **fields))

    def ask(
        self,
        name: str,
        kind: str = "A",
        *,
        tcp: bool = False,
        bytes_max: int = LOCAL_BYTES_MAX,
        **options: Any,
    ) -> Message:
        """Returns the answer to a question; a name without a dot at its end is below the mesh's."""
        query = question(name, kind, **options)
        data = query.to_wire()
        raw = self.responder.stream(data) if tcp else self.responder.datagram(data, bytes_max)
        assert raw is not None
        answer = dns.message.from_wire(raw)
        assert answer.id == query.id
        return answer

    def texts(self, name: str, kind: str = "A", **options: Any) -> list[str]:
        """Returns the answer's records, in the order of their texts."""
        return sorted(texts(self.ask(name, kind, **options)))


def question(name: str, kind: str = "A", **options: Any) -> Message:
    """Returns a question; a name without a dot at its end is below the mesh's."""
    whole = name if name.endswith(".") else f"{name}.{MESH}."
    return dns.message.make_query(whole, kind, **options)


def texts(answer: Message) -> list[str]:
    """Returns the records that answer a question."""
    return [record.to_text() for rrset in answer.answer for record in rrset]


def hosts(count: int, service: str = "rag", **fields: Any) -> Sequence[Instance]:
    """Returns instances of a service, each on a node and an address of its own."""
    return [
        instance(service, f"n{number}", host=f"10.1.{number // 250}.{number % 250 + 1}", port=8000, **fields)
        for number in range(count)
    ]


def outcome(answer: Message) -> tuple[Rcode, int, list[str]]:
    """Returns what tells kinds of answers apart: the code, how many answers, the types in authority."""
    authority = [dns.rdatatype.to_text(rrset.rdtype) for rrset in answer.authority]
    return answer.rcode(), len(answer.answer), authority
