"""Where checkpoints belong, and which are of no use any more."""

from __future__ import annotations

from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.milestones import CHECKPOINTS_MAX, STEP, due_positions, is_of_use, joins, step_of
from pmoves_mesh.core.moments import Kept

STREAM = "one"


def kept(first: int, last: int) -> Kept:
    return Kept(first=first, last=last, first_ms=1, last_ms=2, stream_id=STREAM)


def place(position: int, stream_id: str = STREAM) -> Place:
    return Place(position=position, time_ms=1, stream_id=stream_id)


def test_they_stand_at_multiples_of_a_step():
    whole = kept(1, 3 * STEP + 7)
    assert due_positions(whole.last, whole, []) == [STEP, 2 * STEP, 3 * STEP]


def test_what_is_there_already_is_not_due():
    whole = kept(1, 3 * STEP)
    assert due_positions(whole.last, whole, [place(STEP)]) == [2 * STEP, 3 * STEP]
    assert due_positions(whole.last, whole, [place(3 * STEP)]) == [STEP, 2 * STEP]
    assert due_positions(whole.last, kept(7, whole.last), [place(2 * STEP)]) == [3 * STEP]
    assert due_positions(whole.last, whole, [place(STEP * step) for step in (1, 2, 3)]) == []


def test_the_first_is_made_wherever_a_young_stream_is():
    assert due_positions(7, kept(1, 9), []) == [7]
    assert due_positions(9, kept(1, 9), [place(7)]) == []


def test_an_empty_stream_needs_none():
    assert due_positions(0, kept(1, 0), []) == []


def test_a_long_stream_has_a_longer_step():
    assert step_of(kept(1, STEP * CHECKPOINTS_MAX)) == STEP
    assert step_of(kept(1, STEP * CHECKPOINTS_MAX + 1)) == 2 * STEP
    longer = kept(1, 2 * STEP * CHECKPOINTS_MAX)
    assert len(due_positions(longer.last, longer, [])) == CHECKPOINTS_MAX


def test_one_is_of_no_use_without_the_events_behind_it():
    cut = kept(STEP + 2, 3 * STEP)
    assert not joins(place(STEP), cut)
    assert joins(place(STEP + 1), cut)
    assert not joins(place(3 * STEP + 1), cut)
    assert not joins(place(2 * STEP, "another"), cut)


def test_what_joins_stays_unless_it_stands_between_the_steps_of_a_longer_stream():
    longer = kept(1, 2 * STEP * CHECKPOINTS_MAX)
    assert is_of_use(place(2 * STEP), longer)
    assert not is_of_use(place(3 * STEP), longer)
    assert not is_of_use(place(2 * STEP, "another"), longer)


def test_the_first_one_stays_wherever_it_stands():
    assert is_of_use(place(7), kept(1, 9 * STEP))
    assert is_of_use(place(7), kept(8, 9 * STEP))
