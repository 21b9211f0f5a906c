"""Many seeds, on every core: each is played in a process of its own kind, and says what went wrong.

    python tests/simulation/seeds.py --seeds 100000

plays a night long, tells how far it is, and how each seed that failed is played again.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

HUNG_S: Final = 120
"""Seconds of real time that a seed may take; most take a tenth of one."""

_CHUNK: Final = 10
_NICE: Final = 10
_SHOWN_MAX: Final = 5
_WIDTH_MAX: Final = 400


class HungError(KeyboardInterrupt):
    """A seed takes too long; nothing that is simulated may take it for its own error."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    happened: dict[str, int]


@dataclass(kw_only=True)
class Tally:
    """What became of all seeds that were played."""

    played: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    failures: list[Played] = field(default_factory=list)


def replay_command(seed: int) -> str:
    """Returns what plays a seed again, and tells all that happened."""
    asked = os.environ.get("SIM_FAULTS", "")
    faults = f"SIM_FAULTS={asked} " if asked else ""
    return f"{faults}SIM_SEED={seed} .venv/bin/python -m pytest tests/simulation -k one_seed"


def verdict(failure: Played) -> str:
    """Returns what a person needs who looks into a failure."""
    head = f"seed {failure.seed}; to see all that happened: {replay_command(failure.seed)}"
    shown = [violation[:_WIDTH_MAX] for violation in failure.violations[:_SHOWN_MAX]]
    return "\n".join([head, *shown])


def play_all(seeds: Sequence[int], tell: Callable[[Tally, Played], None] = lambda *_: None) -> Tally:
    """Plays seeds on every core, and calls `tell` after each of them, in their order."""
    tally = Tally()
    for one in _played(seeds):
        tally.played += 1
        tally.happened.update(one.happened)
        if one.violations:
            tally.failures.append(one)
        tell(tally, one)
    return tally


def _played(seeds: Sequence[int]) -> Iterator[Played]:
    workers = min(len(os.sched_getaffinity(0)), len(seeds))
    if workers <= 1:
        yield from map(play, seeds)
        return
    # A fork would take along what pytest keeps, threads and files included.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _begin) as pool:
        yield from pool.imap(play, seeds, chunksize=min(_CHUNK, max(1, len(seeds) // workers)))


def _begin() -> None:
    """Has a worker give way to whoever waits for an answer, and collect nothing of what it imported."""
    os.nice(_NICE)
    import_module("scenario")
    gc.freeze()


def play(seed: int) -> Played:
    """Plays one seed; one that hangs or fails by itself is a failure like any other."""
    from scenario import Scenario  # noqa: PLC0415 - a worker imports it, and not whoever starts it

    scenario = Scenario(seed)
    try:
        with _at_most(HUNG_S):
            chronicle = scenario.play()
    except (Exception, HungError) as error:  # noqa: BLE001 - whatever it is, the next seeds are played
        told = (*scenario.chronicle.violations, f"the simulation ended with {error!r}")
        return Played(seed=seed, violations=told, happened=dict(scenario.chronicle.happened))
    return Played(seed=seed, violations=tuple(chronicle.violations), happened=dict(chronicle.happened))


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> Any:
        raise HungError(f"it takes longer than {seconds} s of real time")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Plays simulations, each from a seed.")
    parser.add_argument("--seeds", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.seeds)

    def tell(tally: Tally, one: Played) -> None:
        if one.violations:
            say(verdict(one))
        if tally.played % max(1, min(1000, asked.seeds // 20)) == 0 or tally.played == asked.seeds:
            say(f"{tally.played} of {asked.seeds} seeds, {len(tally.failures)} failed")

    tally = play_all(seeds, tell)
    rare = sorted(tally.happened.items(), key=lambda each: each[1])
    say("what happened how often: " + ", ".join(f"{kind} {count}" for kind, count in rare))
    if tally.failures:
        say("failing seeds: " + " ".join(str(one.seed) for one in tally.failures))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.path[:0] = map(str, Path(__file__).resolve().parents[:3])
    sys.exit(main())
