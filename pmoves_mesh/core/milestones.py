"""Where checkpoints belong: at multiples of a step, so that all agents make the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.moments import Kept

STEP: Final = 2500
"""Events between two checkpoints: what is behind one is verified and folded in within a second."""

CHECKPOINTS_MAX: Final = 400
"""The step of a stream with more than that many is a multiple of it."""


def step_of(kept: Kept) -> int:
    """Returns how many events are between two checkpoints of a stream."""
    return STEP * max(1, math.ceil((kept.last - kept.first + 1) / (STEP * CHECKPOINTS_MAX)))


def due_positions(position: int, kept: Kept, places: Sequence[Place]) -> list[int]:
    """Returns of which positions up to one there should be checkpoints, and are none.

    The first is made early, wherever the stream is: its beginning is soon forgotten if it is a repetition.
    """
    step, there = step_of(kept), {place.position for place in places if joins(place, kept)}
    begin = min(there) if there and kept.first > 1 else max(kept.first, 1)
    found = [due for due in range(-(-begin // step) * step, position + 1, step) if due not in there]
    return found if found or there or position < kept.first else [position]


def is_of_use(place: Place, kept: Kept) -> bool:
    """Returns whether a checkpoint is to stay."""
    if not joins(place, kept):
        return False
    return place.position % step_of(kept) == 0 or place.position < kept.first + STEP


def joins(place: Place, kept: Kept) -> bool:
    """Returns whether a checkpoint is of this stream, and nothing behind it is gone."""
    return place.stream_id == kept.stream_id and kept.first - 1 <= place.position <= kept.last
