"""Blocking queries: a reader waits until its own answer would look different, or until its patience ends.

Whoever asks names its answer (the route and every parameter that matters), and gives a function that
returns that answer's fingerprint: anything small that compares equal for as long as a reader would see
no difference. An index stands for one such state of one answer. A route that blocks does three things:

    given, patience_s = parse_index(request), parse_patience_s(request)
    index = await request.app[BLOCKING].changed(name, fingerprint, index=given, patience_s=patience_s)
    ... then builds the answer, and sends `index` with it

The index is taken before the answer is built, so a change in between costs a reader one question more,
and never a change.

Source: Consul's blocking queries (index and wait; a sixteenth of the wait as jitter).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.subscribers import Applied
from pmoves_mesh.views.http.pace import Pace

INDEX_MAX: Final = 2**63 - 1
PATIENCE_DEFAULT_S: Final = 300.0
PATIENCE_MAX_S: Final = 600.0

_JITTER: Final = 1 / 16
_IDLE_MAX: Final = 1024
_REST: Final = 4.0
_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+|[0-9]{1,9}")
_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h|)")

_random: Final = secrets.SystemRandom()

Fingerprint = Callable[[], Hashable]
"""Reads what an answer would show now. It is called again after the request that brought it, so it holds
on to nothing of that; it neither waits nor raises, and takes a few milliseconds at most."""


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer, as it was when it was looked at last.

    Attributes:
        version: of the registry at that time.
        moved: set, and replaced, when the index moves.
        waiting: how many readers wait for that.
    """

    fingerprint: Fingerprint
    seen: Hashable
    version: int
    index: int
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0


class Blocking:
    """The indexes of answers, and whoever waits for them to move.

    An index is never below 1. It moves when the fingerprint of its answer does, and never goes back
    while this agent runs. It begins at the time of day in milliseconds, so that a later run of this
    agent goes on above it. An answer that nobody asked for lately is forgotten, which moves its index.
    """

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._index = max(1, clock.now_ms(), replica.registry.current_ms)
        self._waited: Final[dict[Hashable, _Answer]] = {}
        self._idle: Final[dict[Hashable, _Answer]] = {}
        self._pace: Final = Pace(self._look, clock, rest=_REST)
        self._ended = False

    @property
    def waiting(self) -> int:
        """How many readers wait now."""
        return sum(answer.waiting for answer in self._waited.values())

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follows the replica while the context lasts; nobody is told of a change without it."""
        try:
            with self._replica.subscribed(self._note, self._plan):
                yield
        finally:
            self.end()

    async def changed(
        self, name: Hashable, fingerprint: Fingerprint, *, index: int = 0, patience_s: float = 0.0
    ) -> int:
        """Waits while an answer's index is `index`, and returns the index that it has then.

        Args:
            name: of the answer: equal for all readers who get the same, and only for those.
            fingerprint: what the answer would show now, see `Fingerprint`.
            index: what the reader has; 0, or any but the latest, is answered at once.
            patience_s: how long to wait; up to a sixteenth more, so that readers do not all come back
                at one time.
        """
        answer = self._known(name, fingerprint)
        if answer.index != index or patience_s <= 0 or self._ended:
            return answer.index
        self._idle.pop(name, None)
        self._waited[name] = answer
        answer.waiting += 1
        try:
            async with asyncio.timeout(patience_s * (1 + _random.uniform(0, _JITTER))):
                await answer.moved.wait()
        except TimeoutError:
            pass
        finally:
            answer.waiting -= 1
            if not answer.waiting:
                del self._waited[name]
                self._rest(name, answer)
        self._look_at(answer)
        return answer.index

    def reconsider(self) -> None:
        """Looks at every answer again, after a change of which the registry holds nothing."""
        for answer in (*self._waited.values(), *self._idle.values()):
            answer.version = -1
        self._plan()

    def end(self) -> None:
        """Answers whoever waits, and lets nobody wait any more."""
        self._ended = True
        self._pace.stop()
        for answer in self._waited.values():
            answer.moved.set()

    def _known(self, name: Hashable, fingerprint: Fingerprint) -> _Answer:
        answer = self._waited.get(name) or self._idle.pop(name, None)
        if answer is None:
            self._index += 1
            version = self._replica.registry.version
            answer = _Answer(fingerprint=fingerprint, seen=fingerprint(), version=version, index=self._index)
        else:
            self._look_at(answer)
        if not answer.waiting:
            self._rest(name, answer)
        return answer

    def _rest(self, name: Hashable, answer: _Answer) -> None:
        """Remembers an answer that nobody waits for, and forgets the one that was asked for longest ago."""
        self._idle[name] = answer
        if len(self._idle) > _IDLE_MAX:
            del self._idle[next(iter(self._idle))]

    def _look_at(self, answer: _Answer) -> None:
        """Moves the index of an answer if it shows something else by now."""
        version = self._replica.registry.version
        if answer.version == version:
            return
        answer.version = version
        seen = answer.fingerprint()
        if seen != answer.seen:
            self._index += 1
            answer.seen, answer.index = seen, self._index
            answer.moved.set()
            answer.moved = asyncio.Event()

    def _note(self, _applied: Applied) -> None:
        self._plan()

    def _plan(self) -> None:
        if self._waited and not self._ended:
            self._pace.plan()

    def _look(self) -> Iterator[None]:
        """Looks at everything that is waited for, one answer after another."""
        for answer in tuple(self._waited.values()):
            self._look_at(answer)
            yield


BLOCKING: Final = web.AppKey("blocking", Blocking)


async def follow(app: web.Application) -> AsyncIterator[None]:
    """Lets the blocking queries of a server follow its replica for as long as it serves."""
    with app[BLOCKING].following():
        yield


async def end(app: web.Application) -> None:
    """Answers whoever waits when the server is about to end."""
    app[BLOCKING].end()


def parse_index(request: web.Request) -> int:
    """Returns the index that a reader has; 0 if it has none.

    Raises:
        InvalidFieldError: if it is not an index.
    """
    value = request.query.get("index", "").strip()
    if not value:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) <= 19 and int(value) <= INDEX_MAX):
        raise InvalidFieldError("index", f"{shown(value)} is not an index")
    return int(value)


def parse_patience_s(request: web.Request) -> float:
    """Returns how long a reader wants to wait, in seconds: 300 if it does not say, 600 at most.

    Raises:
        InvalidFieldError: if `wait` is no duration such as 10s, 5m, 1m30s or 120000ms; bare digits are
            seconds.
    """
    value = request.query.get("wait", "").strip().lower()
    if not value:
        return PATIENCE_DEFAULT_S
    if not _DURATION.fullmatch(value):
        raise InvalidFieldError("wait", f"{shown(value)} is not a duration such as 10s, 5m or 120000ms")
    total_s = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
    return min(total_s, PATIENCE_MAX_S)
