"""How somebody says when."""

from __future__ import annotations

import pytest
from builders import NOW_MS

from pmoves_mesh.core import moments
from pmoves_mesh.core.moments import AHEAD_MAX_MS, BeforeHistoryError, Kept, Moment
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import InvalidFieldError

NOON_MS = 1_767_268_800_000
KEPT = Kept(first=5, last=9, first_ms=NOW_MS, last_ms=NOW_MS + 4000, stream_id="one")


def parsed(text: str) -> Moment:
    return moments.parse(text, "at", NOW_MS)


@pytest.mark.parametrize(
    ("text", "position", "time_ms"),
    [
        ("12345", 12345, None),
        ("now", None, None),
        (" NOW ", None, None),
        ("15m", None, NOW_MS - 15 * 60_000),
        ("1H", None, NOW_MS - 3_600_000),
        ("7d", None, NOW_MS - 7 * 86_400_000),
        ("2w", None, NOW_MS - 14 * 86_400_000),
        ("90s", None, NOW_MS - 90_000),
        ("999999999d", None, 0),
        ("2026-01-01T12:00:00Z", None, NOON_MS),
        ("2026-01-01T12:00Z", None, NOON_MS),
        ("2026-01-01T12:00", None, NOON_MS),
        ("2026-01-01 12:00", None, NOON_MS),
        ("2026-01-01t12:00:00z", None, NOON_MS),
        ("2026-01-01T13:00:00+01:00", None, NOON_MS),
        ("2026-01-01T12:00:00.123Z", None, NOON_MS + 123),
        ("2026-01-01T12:00:00.123999Z", None, NOON_MS + 123),
        ("2026-01-01", None, NOON_MS - 12 * 3_600_000),
    ],
)
def test_a_moment_is_a_position_a_time_now_or_how_long_ago(
    text: str, position: int | None, time_ms: int | None
):
    assert parsed(text) == Moment(field="at", position=position, time_ms=time_ms)


@pytest.mark.parametrize(
    "text",
    ["yesterday", "-1", "1.5", "1y", "2026-13-01", "20260101T120000Z", "12:00", "1" * 19, "9" * 50, "\u0663"],
)
def test_what_is_no_moment_is_refused_by_name(text: str):
    with pytest.raises(InvalidFieldError, match="is no moment"):
        parsed(text)


def test_what_is_still_to_come_is_refused_but_for_a_clock_that_is_a_little_ahead():
    assert parsed(iso(NOW_MS + AHEAD_MAX_MS)).time_ms == NOW_MS + AHEAD_MAX_MS
    with pytest.raises(InvalidFieldError, match="still to come"):
        parsed(iso(NOW_MS + AHEAD_MAX_MS + 1))


def test_a_time_includes_all_that_the_stream_took_within_its_millisecond():
    then = Moment(field="at", time_ms=1000)
    assert then.includes(7, 1000)
    assert not then.includes(8, 1001)


def test_now_includes_everything_and_a_position_itself():
    assert Moment(field="at").includes(10**12, 10**15)
    assert Moment(field="at", position=7).includes(7, 10**15)
    assert not Moment(field="at", position=7).includes(8, 0)


@pytest.mark.parametrize("moment", [Moment(field="at", position=4), Moment(field="at", time_ms=NOW_MS - 1)])
def test_a_moment_before_the_first_event_says_from_when_on_the_past_is_known(moment: Moment):
    with pytest.raises(BeforeHistoryError) as raised:
        moments.check(moment, KEPT, 5, NOW_MS)
    assert (raised.value.from_position, raised.value.from_time) == (5, iso(NOW_MS))


def test_a_moment_beyond_the_last_event_is_refused():
    with pytest.raises(InvalidFieldError, match="has come to position 9"):
        moments.check(Moment(field="at", position=10), KEPT, 5, NOW_MS)


def test_an_empty_stream_has_no_moment():
    empty = Kept(first=1, last=0, first_ms=0, last_ms=0, stream_id="one")
    with pytest.raises(BeforeHistoryError, match="no time yet"):
        moments.check(Moment(field="at"), empty, 1, 0)


@pytest.mark.parametrize("position", [5, 9])
def test_the_first_and_the_last_event_are_moments(position: int):
    moments.check(Moment(field="at", position=position), KEPT, 5, NOW_MS)
