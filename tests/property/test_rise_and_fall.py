"""What holds of health for any findings, and of the schedule for any draw."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.check import TcpCheck
from pmoves_mesh.core.doubt import TOGETHER_MIN, Doubt
from pmoves_mesh.core.health import (
    JITTER,
    Finding,
    Health,
    Pace,
    chance,
    first_after_s,
    next_due_s,
    observe,
)
from pmoves_mesh.core.model import InstanceKey

counts = st.integers(min_value=1, max_value=8)
known = st.sampled_from(["healthy", "unhealthy"])


def streak(findings: list[bool]) -> int:
    """Returns how many findings at the end are the same."""
    return next((n for n, one in enumerate(reversed(findings)) if one != findings[-1]), len(findings))


@given(findings=st.lists(st.booleans(), min_size=1, max_size=60), rise=counts, fall=counts, begin=known)
def test_a_status_changes_exactly_when_a_row_reaches_its_threshold(
    findings: list[bool], rise: int, fall: int, begin: str
):
    health = Health(begin)
    for count, passed in enumerate(findings, 1):
        before, health = health, observe(health, passed=passed, rise=rise, fall=fall)
        row = streak(findings[:count])
        if health.status != before.status:
            assert row == (rise if passed else fall)
            assert health.status == ("healthy" if passed else "unhealthy")
        elif row >= (rise if passed else fall):
            assert health.status == ("healthy" if passed else "unhealthy")


@given(
    first=st.booleans(),
    length=st.integers(min_value=2, max_value=40),
    rise=st.integers(min_value=2, max_value=8),
    fall=st.integers(min_value=2, max_value=8),
    begin=st.sampled_from(["healthy", "unhealthy", "unknown"]),
)
def test_findings_that_alternate_never_make_a_status_flap(
    first: bool, length: int, rise: int, fall: int, begin: str
):
    health, statuses = Health(begin), [begin]
    for number in range(length):
        health = observe(health, passed=first ^ bool(number % 2), rise=rise, fall=fall)
        statuses.append(health.status)
    changes = sum(one != other for one, other in pairwise(statuses))
    assert changes == (1 if begin == "unknown" else 0)
    assert statuses[-1] == ("healthy" if begin == "unknown" else begin)


@given(findings=st.lists(st.booleans(), min_size=1, max_size=60), fall=counts)
def test_a_new_instance_is_healthy_with_its_first_pass_or_unhealthy_after_the_failures(
    findings: list[bool], fall: int
):
    health = Health()
    for count, passed in enumerate(findings, 1):
        health = observe(health, passed=passed, fall=fall)
        if passed:
            assert health.status == "healthy"
            return
        assert health.status == ("unhealthy" if count >= fall else "unknown")
        if health.status == "unhealthy":
            return


@given(
    findings=st.lists(st.booleans(), max_size=60),
    more=st.integers(min_value=0, max_value=20),
    passed=st.booleans(),
)
def test_health_that_has_settled_stays_the_same_record(findings: list[bool], more: int, passed: bool):
    health = Health()
    for one in [*findings, *[passed] * 8]:
        health = observe(health, passed=one)
    settled = health
    for _ in range(more):
        health = observe(health, passed=passed)
    assert health == settled


paces = st.builds(
    lambda interval_s, rise, fall: TcpCheck(interval_s=interval_s, rise=rise, fall=fall).pace,
    interval_s=st.floats(1, 3600),
    rise=st.integers(1, 10),
    fall=st.integers(1, 10),
)


@given(pace=paces, seed=st.text(), findings=st.lists(st.booleans(), min_size=1, max_size=60))
def test_at_any_pace_a_status_changes_after_its_row_and_after_the_time_that_the_row_takes(
    pace: Pace, seed: str, findings: list[bool]
):
    health, now_s, turned_s, row = Health("healthy"), 0.0, 0.0, 0
    for number, passed in enumerate(findings):
        if number == 0 or passed != findings[number - 1]:
            turned_s, row = now_s, 0
        row += 1
        before, health = health, observe(health, passed=passed, rise=pace.rise, fall=pace.fall)
        needed = pace.rise if passed else pace.fall
        if health.status != before.status:
            assert row == needed
            least_s = (needed - 1) * pace.interval_s * (1 - JITTER)
            most_s = (needed - 1) * pace.interval_s * (1 + JITTER)
            assert least_s - 1e-6 <= now_s - turned_s <= most_s + 1e-6
        now_s = next_due_s(now_s, now_s, pace.interval_s, chance(seed, number))


@given(pace=paces)
def test_a_probe_has_ended_before_the_next_one_is_due(pace: Pace):
    assert 0 < pace.timeout_s <= (1 - JITTER) * pace.interval_s


moves = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(["expect", "forget", "passes", "silent", "refused", "not probed"]),
        st.sampled_from([1.0, 10.0, 15.0, 300.0]),
        st.floats(0, 40),
    ),
    max_size=80,
)
FINDINGS = {
    "passes": Finding(passed=True, output=""),
    "silent": Finding(passed=False, output="", answered=False),
    "refused": Finding(passed=False, output=""),
    "not probed": Finding(passed=None, output=""),
}


@given(moves=moves)
def test_at_any_paces_a_doubt_needs_silence_all_around_and_ends_by_itself_and_with_an_answer(
    moves: list[tuple[int, str, float, float]],
):
    doubt, now_s = Doubt(), 0.0
    held: dict[InstanceKey, tuple[float, bool]] = {}
    for number, kind, interval_s, pause_s in moves:
        key, pace = InstanceKey("rag", "alpha", str(number)), Pace(interval_s=interval_s)
        now_s += pause_s
        doubted = doubt.cause(now_s)
        if kind == "expect":
            doubt.expect(key, pace)
            silent = held[key][1] if key in held and held[key][0] == interval_s else False
            held[key] = (interval_s, silent)
        elif kind == "forget":
            doubt.forget(key)
            held.pop(key, None)
        else:
            doubt.found(key, FINDINGS[kind], now_s, pace)
            held[key] = (interval_s, kind == "silent")
            if kind == "not probed":
                del held[key]
        if kind in {"passes", "refused"}:
            assert doubt.cause(now_s) is None
        if doubt.cause(now_s) is not None and doubted is None:
            longest_s = max(interval_s for interval_s, silent in held.values() if silent)
            asked = [silent for interval_s, silent in held.values() if interval_s <= 2 * longest_s]
            assert all(asked)
            assert len(asked) >= TOGETHER_MIN
        assert doubt.cause(now_s + 6 * 300.0) is None


@given(seed=st.text(), interval_s=st.floats(0.1, 3600), together=st.integers(1, 100_000))
def test_the_first_probe_comes_within_the_interval(seed: str, interval_s: float, together: int):
    assert 0 <= first_after_s(interval_s, together, chance(seed)) <= interval_s


@given(
    seed=st.text(),
    due_s=st.floats(0, 1e6),
    late_s=st.floats(0, 1e5),
    interval_s=st.floats(0.1, 3600),
)
def test_the_next_probe_is_ahead_and_at_most_a_jittered_interval_away(
    seed: str, due_s: float, late_s: float, interval_s: float
):
    now_s = due_s + late_s
    due = next_due_s(due_s, now_s, interval_s, chance(seed))
    assert now_s < due <= now_s + 1.1 * interval_s + 1e-6
