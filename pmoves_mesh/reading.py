"""Reading the registry bucket for a replica that is made of it: what it held, and the proof of each record.

All is read before anything is folded in, so that a log that goes away meanwhile changes nothing. It is
kept as bytes, in few large pieces: each is let go before the next is decoded, and the system takes it back,
while what is made of it grows. What stood in an earlier stream comes first, then what operators decreed,
since it says what of the rest is believed. The rest comes as the bucket has it, which is nearly the order of
the stream and need not be: the same events give the same registry in any order.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.envelope import Proof
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.ports import Bucket, LogMessage
from pmoves_mesh.verifier import message_of

_DECREES: Final = ("evicted.>", "revoked.>", records.ROOTS_KEY)
_PIECE_BYTES: Final = 2**20
_SHARED_MIN: Final = 64
_THREADS: Final = min(4, os.cpu_count() or 1)


@dataclass(slots=True)
class Proved:
    """A record, its event as the stream had it, and the proof of its signature if there is one."""

    record: Record
    message: LogMessage
    proof: Proof | None = None


class _Piece:
    """Values, one behind the other."""

    def __init__(self, values: Collection[bytes]) -> None:
        self._ends: Final = [0, *accumulate(map(len, values))]
        self._data: Final = b"".join(values)

    def records(self) -> Iterator[Record]:
        """Yields those that are records."""
        view = memoryview(self._data)
        for begin, end in pairwise(self._ends):
            if (record := records.readable(view[begin:end])) is not None:
                yield record


class _Standing(Struct):
    """Of a record, where its event stands."""

    position: int = 0


_standing: Final = msgspec.json.Decoder(_Standing).decode


class _Pieces:
    """Values, gathered into pieces as they come."""

    def __init__(self) -> None:
        self._pieces: Final = deque[_Piece]()
        self._loose: Final[list[bytes]] = []
        self._loose_bytes = 0

    def add(self, value: bytes) -> None:
        self._loose.append(value)
        self._loose_bytes += len(value)
        if self._loose_bytes >= _PIECE_BYTES:
            self._gather()

    def take(self) -> Iterator[list[Proved]]:
        """Yields the records, some at a time, and lets go of them."""
        self._gather()
        while self._pieces:
            yield [Proved(record, message_of(record)) for record in self._pieces.popleft().records()]

    def _gather(self) -> None:
        self._pieces.append(_Piece(self._loose))
        self._loose.clear()
        self._loose_bytes = 0


class Holding:
    """All that the bucket held at one moment, to be taken once.

    Attributes:
        decrees: what operators decreed, in the order of the stream.
    """

    def __init__(self, decrees: Mapping[str, Record]) -> None:
        self.decrees: Final = sorted(decrees.values(), key=lambda record: record.position)
        self._before: Final = _Pieces()
        self._since: Final = _Pieces()

    def add(self, value: bytes) -> None:
        """Takes in a value that is no decree."""
        try:
            position = _standing(value).position
        except (msgspec.MsgspecError, RecursionError):
            return  # it is written anew by whoever keeps the bucket
        (self._since if position else self._before).add(value)

    def before(self) -> Iterator[list[Proved]]:
        """Yields the records of what stood in an earlier stream, some at a time, and lets go of them."""
        return self._before.take()

    def since(self) -> Iterator[list[Proved]]:
        """Yields the records of what stands in this one, some at a time, and lets go of them."""
        return self._since.take()


async def read(bucket: Bucket, carried: Mapping[str, bytes]) -> Holding:
    """Returns all that the registry bucket holds.

    Args:
        bucket: the registry bucket.
        carried: decrees that hold although the bucket may lack them, by their keys.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    decrees: dict[str, Record] = {}
    for pattern in _DECREES:
        async for entry in bucket.load(pattern):
            if (record := records.readable(entry.value)) is not None:
                decrees[entry.key] = record
    for key, value in carried.items():
        if (record := records.readable(value)) is not None:
            decrees[key] = records.merged(decrees.get(key), record) or decrees[key]
    holding = Holding(decrees)
    async for entry in bucket.load():
        if entry.key not in decrees:
            holding.add(entry.value)
    return holding


async def prove(some: list[Proved], trust: Trust) -> None:
    """Verifies the signatures of many records in threads on all cores.

    What then has no proof is verified by whoever unseals it, and so are the signatures of a few.
    """
    if len(some) < _SHARED_MIN:
        return
    size = -(-len(some) // _THREADS)
    shares = [some[first : first + size] for first in range(0, len(some), size)]
    await asyncio.gather(*(asyncio.to_thread(_prove, share, trust) for share in shares))


def _prove(share: list[Proved], trust: Trust) -> None:
    for one in share:
        one.proof = envelope.prove(one.message.sealed, trust)
