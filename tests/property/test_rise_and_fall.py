"""What holds of health for any findings, and of the schedule for any draw."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.health import Health, chance, first_after_s, next_due_s, observe

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
