"""How often somebody may ask: token buckets for many callers, of whom few are remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import RateLimitedError
from pmoves_mesh.views.http.limits import Bounds, Cost, Limits, RateLimit
from pmoves_mesh.views.http.peers import is_loopback, network_of


class StillClock(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s


def granted(rate: RateLimit, caller: str, now_s: float) -> bool:
    try:
        rate.take(caller, now_s)
    except RateLimitedError:
        return False
    return True


@given(
    gaps=st.lists(st.floats(min_value=0, max_value=3), min_size=1, max_size=200),
    per_s=st.floats(min_value=0.1, max_value=100),
    burst=st.integers(min_value=1, max_value=20),
)
def test_no_stretch_of_time_ever_grants_more_than_the_burst_and_the_rate_allow(
    gaps: list[float], per_s: float, burst: int
):
    rate = RateLimit("writes", per_s, burst, callers_max=10)
    now_s = 1000.0
    at: list[float] = []
    for gap in gaps:
        now_s += gap
        if granted(rate, "one", now_s):
            at.append(now_s)
    for first in range(len(at)):
        for last in range(first, len(at)):
            assert last - first + 1 <= burst + (at[last] - at[first]) * per_s + 1e-6


@given(
    per_s=st.floats(min_value=0.1, max_value=1000),
    burst=st.integers(min_value=1, max_value=50),
    late=st.booleans(),
)
def test_whoever_waits_as_long_as_it_is_told_is_granted_and_not_before(per_s: float, burst: int, late: bool):
    rate = RateLimit("writes", per_s, burst, callers_max=10)
    assert all(granted(rate, "one", 1000.0) for _ in range(burst))
    with pytest.raises(RateLimitedError) as caught:
        rate.take("one", 1000.0)
    wait_s = caught.value.retry_after_s
    assert 0 < wait_s <= 1 / per_s + 1e-9
    assert granted(rate, "one", 1000.0 + wait_s * (1.001 if late else 0.5)) is late


def test_callers_do_not_use_up_what_others_have():
    rate = RateLimit("writes", 1, 3, callers_max=10)
    assert [granted(rate, "one", 1.0) for _ in range(4)] == [True, True, True, False]
    assert granted(rate, "two", 1.0)


def test_an_attempt_that_is_refused_costs_nothing():
    rate = RateLimit("writes", 1, 1, callers_max=10)
    assert granted(rate, "one", 1.0)
    assert not any(granted(rate, "one", 1.0) for _ in range(100))
    assert granted(rate, "one", 2.0)


def test_however_many_callers_come_few_are_remembered_and_the_worst_of_them_for_sure():
    rate = RateLimit("writes", 1, 10, callers_max=100)
    assert all(granted(rate, "greedy", 1.0) for _ in range(10))
    for number in range(10_000):
        assert granted(rate, f"caller {number}", 1.0)
        assert rate.remembered <= 100
    assert not granted(rate, "greedy", 1.0)


def test_whoever_owes_nothing_any_more_is_forgotten_first():
    rate = RateLimit("writes", 1, 1, callers_max=3)
    for caller, now_s in (("early", 1.0), ("late", 1.9), ("later", 1.95), ("latest", 2.1)):
        assert granted(rate, caller, now_s)
    assert rate.remembered == 3
    assert not granted(rate, "late", 2.1)


def counted(limits: Limits, remote: str, cost: Cost, most: int = 2000) -> int:
    """Returns how many requests are granted at once, up to `most`."""
    for number in range(most):
        try:
            limits.check(remote, cost)
        except RateLimitedError:
            return number
    return most


def test_other_hosts_have_a_rate_each_and_this_host_has_none():
    clock = StillClock()
    limits = Limits(Bounds(), clock)
    assert counted(limits, "192.0.2.1", "write") == 200
    assert counted(limits, "192.0.2.2", "write") == 200
    assert counted(limits, "192.0.2.1", "read", 3000) == 2000
    assert counted(limits, "127.0.0.1", "write") == counted(limits, "::1", "read") == 2000
    clock.at_s += 1
    assert counted(limits, "192.0.2.1", "write") == 100


def test_requests_for_identities_are_few_for_each_host_and_few_for_all_of_them():
    clock = StillClock()
    limits = Limits(Bounds(), clock)
    assert counted(limits, "192.0.2.1", "enrolment") == 10
    assert sum(counted(limits, f"192.0.2.{number}", "enrolment") for number in range(2, 30)) == 50
    assert counted(limits, "127.0.0.1", "enrolment") == 600  # others do not keep this host's programs waiting
    clock.at_s += 60
    assert counted(limits, "192.0.2.1", "enrolment") == 10


def test_a_host_that_used_up_its_own_takes_nothing_of_what_all_share():
    limits = Limits(Bounds(), StillClock())
    for _ in range(5):
        assert counted(limits, "192.0.2.1", "enrolment") in {10, 0}
    assert counted(limits, "192.0.2.2", "enrolment") == 10


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::1%lo", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_what_cannot_come_from_another_host_is_this_host(address: str, local: bool):
    assert is_loopback(address) is local


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_is_known_by_its_address_or_by_its_network_of_ipv6(address: str, network: str):
    assert network_of(address) == network
