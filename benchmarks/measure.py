"""What is measured, and how: pieces of work in turn, so that a machine whose speed drifts does not matter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from msgspec import Struct, field

Rounds = list[float]


class Target(Struct, frozen=True, kw_only=True):
    """What a figure should be; one of the two."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Returns whether a value is what it should be."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


class Figure(Struct, frozen=True, kw_only=True):
    """One line of the result.

    Attributes:
        value: the median of the rounds; None if it could not be measured, and `note` says why.
        unit: of the value and of everything beside it.
        rounds: each round's value, if there were several.
        beside: what a user would pick instead: its value, or why it has none, by its name.
        sizes: what the value grows with, for a curve: `(instances, 1000)`.
        note: what one has to know beside the figure.
    """

    what: str
    value: float | None
    unit: str
    rounds: tuple[float, ...] = ()
    beside: Mapping[str, float | str] = field(default_factory=dict)
    target: Target | None = None
    sizes: tuple[str, float] | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether it was measured and is not what it should be."""
        return self.target is not None and self.value is not None and not self.target.met(self.value)


def interleaved(rounds: int, work: Mapping[str, Callable[[], float]]) -> dict[str, Rounds]:
    """Measures several things in turn, so many rounds, and returns what each round found of each."""
    found: dict[str, Rounds] = {name: [] for name in work}
    for _ in range(rounds):
        for name, measure in work.items():
            found[name].append(measure())
    return found


def figure(what: str, unit: str, rounds: Sequence[float], **more: Any) -> Figure:
    """Returns a figure whose value is the median of its rounds; `more` as `Figure` takes it."""
    return Figure(what=what, value=median(rounds), unit=unit, rounds=tuple(rounds), **more)


def ratio(what: str, mine: Rounds, theirs: Rounds, target: Target | None = None) -> Figure:
    """Returns how many times as much as another, by the median of the rounds' own ratios."""
    each = [one / other for one, other in zip(mine, theirs, strict=True)]
    return figure(what, "times", each, target=target)


def absent(what: str, unit: str, why: str, target: Target | None = None) -> Figure:
    """Returns a figure that could not be measured."""
    return Figure(what=what, value=None, unit=unit, target=target, note=why)


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def rate(work: Callable[[], object], count: int) -> float:
    """Returns how many of `count` things a call of `work` does in a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)
