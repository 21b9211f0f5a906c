"""Examining the registry bucket: what it holds, and what of that nothing proves."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from pmoves_mesh.core import records
from pmoves_mesh.core.comparison import Difference, Problem
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.records import Record
from pmoves_mesh.ports import Bucket
from pmoves_mesh.verifier import Verifier

EVERY: Final = ">"


class Examined(Struct, frozen=True, kw_only=True):
    """What a bucket was found to hold.

    Attributes:
        held: the records that prove themselves, by their keys.
        verified: what those state.
        spoilt: the keys whose values are no records, or prove nothing.
    """

    held: dict[str, Record]
    verified: dict[str, tuple[VerifiedEvent, ...]]
    spoilt: tuple[Difference, ...]


async def examine(bucket: Bucket, verifier: Verifier, pattern: str = EVERY) -> Examined:
    """Reads the keys that match a pattern, and verifies each record under its key.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    held: dict[str, Record] = {}
    verified: dict[str, tuple[VerifiedEvent, ...]] = {}
    spoilt = []
    async for entry in bucket.load(pattern):
        record = records.readable(entry.value)
        found = () if record is None else await verifier.proved(entry.key, record)
        if record is None or not found:
            problem: Problem = "unreadable" if record is None else "unproved"
            spoilt.append(Difference(key=entry.key, place="bucket", problem=problem))
        else:
            held[entry.key], verified[entry.key] = record, found
    return Examined(held=held, verified=verified, spoilt=tuple(spoilt))
