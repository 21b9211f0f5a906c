"""Discovering by two capabilities over HTTP, on one core: 20 of all instances match.

The same few questions are asked again and again, and then questions that all differ, since answers are kept
until the registry moves; and both while it moves 10 and 100 times a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

import msgspec

from benchmarks.filled import MATCH, Filled, Stand
from benchmarks.lookup import while_changing, whole
from benchmarks.measure import Figure, Target, absent, figure, interleaved, ratio
from benchmarks.peers import BARE, bare
from benchmarks.processes import alone
from benchmarks.wrk import Always, Asking, missing, post

TITLE = "discover by two capabilities over HTTP"
A_SECOND = Target(at_least=15_000)

_LIMIT_MAX = 1000
_ASKED_A_SECOND = 30_000
"""How many questions are at hand for a second of those that all differ."""


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    if why := missing():
        yield absent("answers", "/s", why, A_SECOND)
        return
    mesh, seconds = stand.filled(stand.size.instances), stand.size.seconds
    asked = {
        "the same bodies again and again": same(stand, mesh),
        "bodies that all differ": different(stand, mesh),
    }
    # Once, so that the bare handler has something to say; also a check that the question is right.
    answer = discovered(mesh)
    with ExitStack() as stack:
        requests = [question(0, MATCH)]
        plain = stack.enter_context(bare(stand.folder(), whole(answer), requests))
        beside = Asking(stand.folder(), plain.port, plain.requests)
        stack.enter_context(alone([mesh.reader.pid, plain.pid]))
        work: dict[str, Callable[[], float]] = {BARE: lambda: beside.rate(seconds)}
        for what, one in asked.items():
            work[what] = partial(one.rate, seconds)
            for per_second in stand.size.changes_per_s:
                work[_changing(what, per_second)] = partial(while_changing, mesh, one, seconds, per_second)
        found = interleaved(stand.size.rounds, work)
    limit = median(found[BARE])
    for what in asked:
        note = f"{len(answer):,} bytes each" if what == next(iter(asked)) else ""
        yield figure(what, "/s", found[what], beside={BARE: limit}, target=A_SECOND, note=note)
        for per_second in stand.size.changes_per_s:
            yield figure(_changing(what, per_second), "/s", found[_changing(what, per_second)])
    yield ratio(f"as many as {BARE}", found[next(iter(asked))], found[BARE])


def same(stand: Stand, mesh: Filled) -> Asking:
    """Returns questions for all groups of a mesh, again and again."""
    return Asking(stand.folder(), mesh.reader.port, [question(group, MATCH) for group in range(mesh.groups)])


def different(stand: Stand, mesh: Filled) -> Always:
    """Returns questions that all differ, in what they ask for or in how much of it they take at most."""
    limits = itertools.cycle(range(MATCH, _LIMIT_MAX + 1))
    groups = itertools.cycle(range(mesh.groups))
    all_of_them = (question(group, limit) for group, limit in zip(groups, limits, strict=False))
    at_hand = round(_ASKED_A_SECOND * stand.size.seconds)
    return Always(stand.folder(), mesh.reader.port, all_of_them, at_hand)


def question(group: int, limit: int) -> bytes:
    """Returns a request for at most so many instances of a group."""
    return post(
        "/api/discover", msgspec.json.encode({"capabilities": [f"group-{group}", "all"], "limit": limit})
    )


def discovered(mesh: Filled) -> bytes:
    """Returns what the agent answers to such a question.

    Raises:
        RuntimeError: if it is not what was to be found.
    """
    body = question(0, MATCH).partition(b"\r\n\r\n")[2]
    answer = mesh.reader.ask("POST", "/api/discover", body)
    count = msgspec.json.decode(answer)["count"]
    if count != MATCH:
        raise RuntimeError(f"{count} instances were discovered, not {MATCH}")
    return answer


def _changing(what: str, per_second: int) -> str:
    return f"{what}, {per_second} changes a second"
