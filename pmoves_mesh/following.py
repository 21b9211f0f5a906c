"""Following a stream: whether what its tail brings goes on from what was followed before."""

from __future__ import annotations

from pmoves_mesh.core import continuity, envelope
from pmoves_mesh.core.registry import Anchor, Registry
from pmoves_mesh.errors import SequenceGap
from pmoves_mesh.ports import EventLog, TailBatch


async def known_again(log: EventLog, batch: TailBatch, registry: Registry, mesh: str) -> TailBatch:
    """Returns what is new in the first batch, if the stream continues what was followed before.

    Args:
        log: the stream.
        batch: what its tail brought first, from the anchor on.
        registry: as far as it was followed.
        mesh: whose it is.

    Raises:
        SequenceGap: if it does not: it was truncated, made anew or restored.
        LogUnavailable: if the log cannot be reached.
    """
    bounds, first = await log.bounds(), next(iter(batch.messages), None)
    read = Anchor()
    if first is not None:
        read = Anchor(first.position, envelope.digest(first.sealed, mesh))
    if continuity.check_known(registry.position, registry.anchor, bounds.first, bounds.last, read):
        return TailBatch(messages=batch.messages[1:], pending=batch.pending)
    return batch


async def check_whole(log: EventLog, batch: TailBatch, position: int) -> None:
    """Checks that what is missing among the positions of a batch was forgotten on purpose.

    Args:
        log: the stream.
        batch: what its tail brought.
        position: up to which it was followed.

    Raises:
        SequenceGap: if the stream lost events before they were followed.
        LogUnavailable: if the log cannot be reached.
    """
    reached = continuity.before_hole(position, (one.position for one in batch.messages))
    if reached is not None and (bounds := await log.bounds()).first > reached + 1:
        raise SequenceGap(reached, bounds.first)
