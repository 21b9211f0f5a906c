"""Measuring: two pieces of work in turn, so that a machine whose speed drifts does not matter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

ROUNDS = 7


class Figure(NamedTuple):
    """One line of the result.

    Attributes:
        per_second: how often the work is done in a second; the median of the rounds.
        baseline: what `ratio` compares with.
        ratio: median of the rounds' own ratios to the baseline; above 1 is faster.
    """

    what: str
    per_second: float
    baseline: str
    ratio: float


def rate(work: Callable[[], object], count: int) -> float:
    """Returns how many of `count` things a call of `work` does in a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def compare(
    what: str, work: Callable[[], object], baseline: str, other: Callable[[], object], count: int
) -> Figure:
    """Runs `work` and `other` in turn, each doing `count` things, and returns the medians."""
    rates, ratios = [], []
    for _ in range(ROUNDS):
        mine, theirs = rate(work, count), rate(other, count)
        rates.append(mine)
        ratios.append(mine / theirs)
    return Figure(what, statistics.median(rates), baseline, statistics.median(ratios))
