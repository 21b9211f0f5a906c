"""Continuity: whether a stream is the one that was followed before, and nothing in between is gone.

A stream goes on silently at the first event that it has left. So whoever comes back to it reads
the latest event again by which it knows its history, and compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pmoves_mesh.core import envelope
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Anchor
from pmoves_mesh.errors import SequenceGap


def begin_after(position: int, anchor: Anchor) -> int:
    """Returns after which position to read on, so that the anchor is read first."""
    return min(anchor.position - 1, position) if anchor.position else position


def check_known(position: int, anchor: Anchor, first: int, last: int, read: Anchor) -> bool:
    """Returns whether what was read first is the anchor, if the stream still holds that.

    Args:
        position: up to which the stream was followed.
        anchor: by what it is known again.
        first: the oldest position that the stream holds.
        last: the newest one.
        read: what stands where the reading began; position 0 for nothing.

    Raises:
        SequenceGap: if events were lost in between, or this is another history.
    """
    if last < position or first > position + 1:
        raise SequenceGap(position, first)
    if not first <= anchor.position <= position:
        return False
    if read != anchor:
        raise SequenceGap(position, first)
    return True


def before_hole(position: int, positions: Iterable[int]) -> int | None:
    """Returns the position before the first hole after `position`, or None if there is none.

    Repetitions go when their time is over, and leave holes; what the limits take goes from the
    beginning of the stream.
    """
    for one in positions:
        if one > position + 1:
            return position
        position = max(position, one)
    return None


class Reach:
    """How far into the stream the bucket's records reach, noted one after another, in any order.

    Attributes:
        keys: how many were noted.
        position: the furthest at which one of them says that its event stands.
    """

    def __init__(self, floor: int = 0) -> None:
        """Begins with nothing; `floor` is where a replica begins that is made of them."""
        self.keys = 0
        self.position = 0
        self._floor = floor
        self._there: Final[list[Record]] = []
        self._latest: Record | None = None

    @property
    def payloads(self) -> set[bytes]:
        """What stands at the furthest position, as those say that have it from there."""
        return {bytes(record.event) for record in self._there}

    def note(self, record: Record) -> None:
        """Takes in a record, and the one that it ended."""
        self.keys += 1
        if (self._latest.position if self._latest else 0) < record.position <= self._floor:
            self._latest = record
        one: Record | None = record
        while one is not None:
            if one.position > self.position:
                self.position = one.position
                self._there.clear()
            if one.position == self.position:
                self._there.append(one)
            one = one.ended

    def anchor(self, mesh: str) -> Anchor:
        """Returns by what that replica knows the stream again: the latest event up to the floor."""
        latest = self._latest
        return Anchor(latest.position, envelope.digest(latest.sealed, mesh)) if latest else Anchor()
