"""From the bytes of a question to the bytes of an answer, which are kept for as long as they are true.

What many ask is encoded once for each version of the registry, in several orders that take turns,
so that the instances of a service share its clients.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import dns.rcode
from dns.message import Message
from dns.rcode import REFUSED
from dns.rdataclass import ANY, IN

from pmoves_mesh.core.registry import Registry
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.dns import wire
from pmoves_mesh.views.dns.wire import Ttls
from pmoves_mesh.views.dns.zone import Reply, Zone

STREAM_BYTES_MAX: Final = 65_535
DROPPED: Final = "dropped"
"""The outcome of what gets no answer."""

Observe = Callable[[str, float], None]
"""Told of each message: the name of its RCODE, or `dropped`, and the seconds that it took."""

_ORDERS_MAX: Final = 32
_USES_MAX: Final = 1024
_KEPT_MAX: Final = 2048
_KEPT_BYTES_MAX: Final = 4 << 20

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    """What was asked for lately, and no more than that: two generations, of which the older is dropped.

    Whoever asks for ever new names drives out what nobody asks for, and little else.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        """Bounds a generation by how many it holds, and by the sum of their sizes."""
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._young: dict[_Key, _Value] = {}
        self._old: dict[_Key, _Value] = {}
        self._bytes = 0

    def get(self, key: _Key) -> _Value | None:
        """Returns what is kept for a key."""
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found, 0)
        return found

    def put(self, key: _Key, value: _Value, size: int) -> None:
        """Keeps a value."""
        if len(self._young) >= self._count_max or self._bytes >= self._bytes_max:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[key] = value
        self._bytes += size

    def grown(self, size: int) -> None:
        """Notes that something that is kept takes more bytes now."""
        self._bytes += size

    def clear(self) -> None:
        """Forgets everything."""
        self._young, self._old, self._bytes = {}, {}, 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._young) + len(self._old)


@dataclass(slots=True)
class _Prepared:
    """The answer to some bytes: encoded in as many orders as were needed so far, without the id.

    Attributes:
        orders: how many there will be.
        uses: how often it was given.
    """

    outcome: str
    reply: Reply
    orders: int
    variants: list[bytes] = field(default_factory=list)
    uses: int = 0


class Responder:
    """Answers questions from the replica.

    Attributes:
        zone: what is answered from.
    """

    def __init__(
        self, replica: Replica, clock: Clock, *, node: str, ttls: Ttls, rng: random.Random, observe: Observe
    ) -> None:
        """Takes what is answered from.

        Args:
            replica: the registry.
            clock: the time, for how long an answer takes.
            node: this node's name.
            ttls: for how long others may remember an answer.
            rng: shuffles the answers.
            observe: told of each message that comes.
        """
        self.zone: Final = Zone(replica, node=node, negative_ttl_s=ttls.negative_s, rng=rng)
        self._replica = replica
        self._clock = clock
        self._ttls = ttls
        self._observe = observe
        self._version: tuple[Registry, int, bool] | None = None
        self._prepared: Recent[tuple[bytes, int], _Prepared] = Recent(_KEPT_MAX, _KEPT_BYTES_MAX)
        self._replies: Recent[tuple[object, ...], Reply] = Recent(_KEPT_MAX, _KEPT_BYTES_MAX)

    def datagram(self, data: bytes, bytes_max: int) -> bytes | None:
        """Returns the answer to a question that came in a datagram, or None if there is none.

        Args:
            data: the question.
            bytes_max: how long the answer may be, at least 512; what the question says may be less.
        """
        return self._answer(data, bytes_max)

    def stream(self, data: bytes) -> bytes | None:
        """Returns the answer to a question that came over TCP, or None if there is none."""
        return self._answer(data, STREAM_BYTES_MAX)

    def _answer(self, data: bytes, bytes_max: int) -> bytes | None:
        began_s = self._clock.monotonic_s()
        self._forget_what_changed()
        key = (data[2:], bytes_max)
        prepared = self._prepared.get(key)
        try:
            if (
                prepared is not None
                and len(prepared.variants) == prepared.orders
                and prepared.uses < _USES_MAX
            ):
                answer = data[:2] + prepared.variants[prepared.uses % prepared.orders]
                outcome = prepared.outcome
                prepared.uses += 1
            else:
                answer, outcome = self._prepare(key, data, prepared)
        except wire.Malformed:
            self._observe(DROPPED, self._clock.monotonic_s() - began_s)
            return None
        except wire.Declined as declined:
            answer, outcome = declined.answer, dns.rcode.to_text(declined.rcode)
        self._observe(outcome, self._clock.monotonic_s() - began_s)
        return answer

    def _forget_what_changed(self) -> None:
        registry = self._replica.registry
        version = self._version
        informed = self._replica.is_informed
        if (
            version is None
            or version[0] is not registry
            or version[1] != registry.version
            or version[2] != informed
        ):
            self._version = (registry, registry.version, informed)
            self._prepared.clear()
            self._replies.clear()

    def _prepare(self, key: tuple[bytes, int], data: bytes, prepared: _Prepared | None) -> tuple[bytes, str]:
        """Encodes the next order of an answer, and keeps it."""
        query = wire.decode(data)
        over_udp = key[1] != STREAM_BYTES_MAX
        room = wire.room(query, key[1]) if over_udp else STREAM_BYTES_MAX
        if prepared is None or prepared.uses >= _USES_MAX:
            reply = self._reply(query, whole=not over_udp, anew=prepared is not None)
            orders = max(1, min(len(reply.records), _ORDERS_MAX))
            prepared = _Prepared(dns.rcode.to_text(reply.rcode), reply, orders)
            self._prepared.put(key, prepared, len(data))
        records = prepared.reply.records
        turn = prepared.uses
        answer = wire.encode(query, prepared.reply, records[turn:] + records[:turn], self._ttls, room)
        prepared.uses += 1
        prepared.variants.append(answer[2:])
        self._prepared.grown(len(answer))
        return answer, prepared.outcome

    def _reply(self, query: Message, *, whole: bool, anew: bool) -> Reply:
        """Returns what is said to a question; shuffled once for each version, or anew."""
        question = query.question[0]
        if question.rdclass not in {IN, ANY}:
            return Reply(REFUSED)
        key = (question.name, question.rdtype, whole)
        reply = None if anew else self._replies.get(key)
        if reply is None:
            reply = self.zone.ask(question.name, question.rdtype, whole=whole)
            self._replies.put(key, reply, 64 * len(reply.records))
        return reply
