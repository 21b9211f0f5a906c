"""Health: when findings change a status, when a probe is due, and when failures are not believed."""

from __future__ import annotations

import pytest

from pmoves_mesh.core.doubt import Doubt
from pmoves_mesh.core.health import Finding, Health, Pace, chance, first_after_s, next_due_s, observe
from pmoves_mesh.core.model import InstanceKey

PACE = Pace()
PASSED = Finding(passed=True, output="HTTP 200")
FAILED = Finding(passed=False, output="HTTP 503")
SILENT = Finding(passed=False, output="timed out after 5 s", answered=False)
NOT_PROBED = Finding(passed=None, output="not probed: its address is link-local")
LAG = "this agent is late"
SILENCE = "no probe hears anything"


def after(findings: str, begin: Health = Health()) -> list[str]:  # noqa: B008 - it is frozen
    """Returns the status after each of the findings, `+` for a pass and `-` for a failure."""
    statuses, health = [], begin
    for one in findings:
        health = observe(health, passed=one == "+")
        statuses.append(health.status)
    return statuses


def keys(count: int) -> list[InstanceKey]:
    return [InstanceKey("rag", "alpha", str(number)) for number in range(count)]


def doubt_of(count: int) -> Doubt:
    doubt = Doubt()
    for key in keys(count):
        doubt.expect(key, PACE)
    return doubt


# Rise and fall


def test_the_first_pass_makes_a_new_instance_healthy():
    assert after("+") == ["healthy"]


def test_a_new_instance_that_begins_to_listen_late_is_healthy_with_its_first_pass():
    assert after("--+") == ["unknown", "unknown", "healthy"]


def test_three_failures_in_a_row_make_a_new_instance_unhealthy():
    assert after("---") == ["unknown", "unknown", "unhealthy"]


def test_three_failures_in_a_row_make_a_healthy_instance_unhealthy():
    assert after("+---") == ["healthy", "healthy", "healthy", "unhealthy"]


def test_a_pass_between_failures_begins_their_count_anew():
    assert after("+--+--+") == ["healthy"] * 7


def test_two_passes_in_a_row_make_an_unhealthy_instance_healthy():
    assert after("+-++", Health("unhealthy")) == ["unhealthy", "unhealthy", "unhealthy", "healthy"]


# The schedule


def test_an_instance_that_is_new_alone_is_probed_at_once():
    assert first_after_s(10.0, 1, 0.999) < 0.011


def test_a_thousand_new_instances_are_spread_over_the_interval():
    assert [first_after_s(10.0, 1000, drawn) for drawn in (0.0, 0.5)] == [0.0, 5.0]
    assert first_after_s(10.0, 100_000, 0.5) == 5.0


@pytest.mark.parametrize(("drawn", "step_s"), [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
def test_probes_are_an_interval_apart_give_or_take_a_tenth(drawn: float, step_s: float):
    assert next_due_s(100.0, 104.0, 10.0, drawn) == pytest.approx(100 + step_s)


def test_probes_that_were_missed_are_not_made_up_for():
    assert next_due_s(100.0, 400.0, 10.0, 0.5) == pytest.approx(410.0)


def test_chance_is_the_same_for_the_same_seed_and_spread_evenly():
    drawn = [chance("alpha", number) for number in range(1000)]
    assert drawn == [chance("alpha", number) for number in range(1000)]
    assert all(
        abs(sum(number < bound for number in drawn) / 1000 - bound) < 0.05 for bound in (0.25, 0.5, 0.75)
    )


# Doubt


def test_failures_count_as_long_as_the_agent_is_in_time():
    doubt = doubt_of(1)
    doubt.late(1.0, 50.0)
    assert doubt.cause(50.0) is None


def test_failures_do_not_count_until_what_ran_while_the_agent_was_late_has_ended():
    doubt = doubt_of(1)
    doubt.late(1.1, 50.0)
    assert [doubt.cause(50.0), doubt.cause(54.9), doubt.cause(55.0)] == [LAG, LAG, None]


def test_four_instances_that_fall_silent_at_once_are_not_condemned():
    doubt = doubt_of(4)
    for number, key in enumerate(keys(4)):
        assert doubt.cause(50.0) is None
        doubt.found(key, SILENT, 50.0 + number, PACE)
    assert doubt.cause(54.0) == SILENCE


def test_the_first_answer_ends_the_doubt():
    doubt = doubt_of(4)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, PACE)
    doubt.found(keys(1)[0], FAILED, 51.0, PACE)
    assert doubt.cause(51.0) is None


def test_the_doubt_ends_after_six_rounds_and_does_not_come_back():
    doubt = doubt_of(4)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, PACE)
    assert doubt.cause(109.9) == SILENCE
    for key in keys(4):
        doubt.found(key, SILENT, 110.0, PACE)
    assert doubt.cause(110.0) is None


@pytest.mark.parametrize("finding", [FAILED, Finding(passed=False, output="refused")])
def test_four_instances_that_all_refuse_are_believed(finding: Finding):
    doubt = doubt_of(4)
    for key in keys(4):
        doubt.found(key, finding, 50.0, PACE)
    assert doubt.cause(50.0) is None


def test_three_instances_that_fall_silent_at_once_are_believed():
    doubt = doubt_of(3)
    for key in keys(3):
        doubt.found(key, SILENT, 50.0, PACE)
    assert doubt.cause(50.0) is None


def test_instances_that_fall_silent_one_after_another_are_believed():
    doubt = doubt_of(4)
    for number, key in enumerate(keys(4)):
        doubt.found(key, SILENT, 50.0 + 30 * number, PACE)
    assert doubt.cause(140.0) is None


def test_one_that_answers_speaks_for_the_agent():
    doubt = doubt_of(5)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, PACE)
    doubt.found(keys(5)[4], PASSED, 51.0, PACE)
    assert doubt.cause(51.0) is None


def test_one_that_is_not_probed_speaks_for_nobody():
    doubt = doubt_of(5)
    doubt.found(keys(5)[4], NOT_PROBED, 49.0, PACE)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, PACE)
    assert doubt.cause(50.0) == SILENCE


SLOW = Pace(interval_s=300, timeout_s=30)


def test_one_that_is_asked_much_more_rarely_is_not_waited_for():
    doubt = doubt_of(4)
    doubt.expect(keys(5)[4], SLOW)
    doubt.found(keys(5)[4], PASSED, 40.0, SLOW)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, PACE)
    assert doubt.cause(109.9) == SILENCE
    doubt.found(keys(5)[4], PASSED, 60.0, SLOW)
    assert doubt.cause(60.0) is None


def test_one_that_is_asked_more_often_and_answers_speaks_for_the_agent():
    doubt = Doubt()
    often = Pace(interval_s=1)
    doubt.expect(keys(5)[4], often)
    doubt.found(keys(5)[4], PASSED, 49.0, often)
    for key in keys(4):
        doubt.found(key, SILENT, 50.0, SLOW)
    assert doubt.cause(50.0) is None


def test_whatever_was_under_way_while_the_agent_was_late_may_take_as_long_as_the_slowest():
    doubt = doubt_of(1)
    doubt.expect(keys(2)[1], SLOW)
    doubt.late(1.1, 50.0)
    assert [doubt.cause(79.9), doubt.cause(80.0)] == [LAG, None]


def test_an_instance_that_is_asked_at_another_pace_begins_anew():
    doubt = doubt_of(4)
    for key in keys(3):
        doubt.found(key, SILENT, 50.0, PACE)
    doubt.expect(keys(1)[0], SLOW)
    doubt.found(keys(4)[3], SILENT, 50.0, PACE)
    assert doubt.cause(50.0) is None


def test_one_that_is_gone_is_not_waited_for():
    doubt = doubt_of(5)
    doubt.found(keys(1)[0], SILENT, 50.0, PACE)
    doubt.forget(keys(1)[0])
    for key in keys(5)[1:]:
        doubt.found(key, SILENT, 50.0, PACE)
    assert doubt.cause(50.0) == SILENCE
