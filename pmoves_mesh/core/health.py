"""Health: what probes find, when that changes an instance's status, and when a probe is due.

Time and chance are passed in, so that every decision can be told from its inputs.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from msgspec import Struct

from pmoves_mesh.core.names import HealthStatus

JITTER: Final = 0.1
"""How far a pause between probes may be from the interval, either way, as a part of it."""

_FIRST_PER_S: Final = 100
"""New instances are first probed at this pace: one at once, a thousand spread over ten seconds."""

_CHANCE_BYTES: Final = 6


class Pace(Struct, frozen=True, kw_only=True):
    """How an instance is probed.

    Attributes:
        interval_s: seconds between probes, give or take the jitter.
        timeout_s: seconds that one probe may take.
        rise: passes in a row that make an unhealthy instance healthy; at least 1.
        fall: failures in a row that make an instance unhealthy; at least 1.
    """

    interval_s: float = 10.0
    timeout_s: float = 5.0
    rise: int = 2
    fall: int = 3


class Finding(Struct, frozen=True, kw_only=True):
    """What one probe found.

    Attributes:
        passed: None if the instance was not probed, because it must not be.
        output: a few words of ours; never what the service said.
        answered: whether somebody at the other end spoke, were it only to refuse. A probe that heard
            nothing may say more about this agent than about the service.
    """

    passed: bool | None
    output: str
    answered: bool = True


class Health(Struct, frozen=True):
    """An instance's health status, and how far it is from changing.

    Attributes:
        successes: passes in a row, counted up to `rise`.
        failures: failures in a row, counted up to `fall`.
    """

    status: HealthStatus = "unknown"
    successes: int = 0
    failures: int = 0


def observe(health: Health, *, passed: bool, rise: int = 2, fall: int = 3) -> Health:
    """Returns what becomes of an instance's health after one more probe.

    Args:
        health: as it was.
        passed: whether the probe did.
        rise: passes in a row that make an unhealthy instance healthy; at least 1.
        fall: failures in a row that make an instance unhealthy; at least 1.
    """
    if passed:
        successes = min(health.successes + 1, rise)
        # A first pass is all that is known of a new service, and one that works must not wait for
        # `rise` rounds to be found. A first failure is no such news: most services are registered
        # a moment before they listen.
        risen = health.status == "unknown" or successes >= rise
        return Health("healthy" if risen else health.status, successes, 0)
    failures = min(health.failures + 1, fall)
    return Health("unhealthy" if failures >= fall else health.status, 0, failures)


def chance(*seed: object) -> float:
    """Returns a number from 0 up to 1, always the same for the same seed."""
    digest = blake2b(repr(seed).encode(), digest_size=_CHANCE_BYTES).digest()
    return int.from_bytes(digest, "big") / (1 << 8 * _CHANCE_BYTES)


def first_after_s(interval_s: float, together: int, drawn: float) -> float:
    """Returns the seconds until the first probe of a new instance.

    Args:
        interval_s: between its probes.
        together: how many instances are new at this moment; the more, the further they are spread,
            over the interval at most.
        drawn: a number from 0 up to 1.
    """
    return min(interval_s, together / _FIRST_PER_S) * drawn


def next_due_s(due_s: float, now_s: float, interval_s: float, drawn: float) -> float:
    """Returns when the next probe is due; what was missed is not made up for.

    Args:
        due_s: when the latest one was due.
        now_s: the time now.
        interval_s: between probes.
        drawn: a number from 0 up to 1.
    """
    step_s = interval_s * (1 - JITTER + 2 * JITTER * drawn)
    return due_s + step_s if due_s + step_s > now_s else now_s + step_s
