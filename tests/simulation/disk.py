"""A disk in memory: what is on it outlives a crash of the agent, and nothing else does.

The real `Store` and the real `Journal` run on it. Only the file is an SQLite database in memory,
and the store's thread is a queue in virtual time, which a crash ends at any point.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pmoves_mesh.store.journal import Journal
from pmoves_mesh.store.records import StoredSnapshot
from pmoves_mesh.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """The disk of one host.

    Attributes:
        latency_max_s: each job takes up to so long, and as long again until its caller hears of it.
        snapshot: what `Saver` saved last.
    """

    def __init__(self) -> None:
        self.latency_max_s = 0.002
        self.snapshot: StoredSnapshot | None = None
        self.journal = _empty_journal()

    def lose(self) -> None:
        """Is replaced by an empty one."""
        self.journal.close()
        self.snapshot = None
        self.journal = _empty_journal()

    def copy(self) -> Disk:
        """Returns another disk with the same on it."""
        other = Disk()
        other.snapshot = self.snapshot
        self.journal._opened().backup(other.journal._opened())
        other.journal._tally = self.journal._tally
        return other

    def save(self, snapshot: StoredSnapshot) -> None:
        """Stands in for `SnapshotFile.save`."""
        self.snapshot = snapshot

    def load(self) -> StoredSnapshot | None:
        """Stands in for `SnapshotFile.load`."""
        return self.snapshot


def _empty_journal() -> Journal:
    journal = Journal(Path(":memory:"))
    journal.open()
    return journal


class _Thread(Executor):
    """Does one job after another, each in a moment of virtual time."""

    def __init__(self, disk: Disk, rng: random.Random) -> None:
        self._disk = disk
        self._rng = rng
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = False
        self._dead = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append((future, partial(fn, *args, **kwargs)))
        if not self._busy:
            self._busy = True
            self._later(self._do)
        return future

    def die(self) -> None:
        """Leaves undone what is not done, and untold what is done."""
        self._dead = True
        self._jobs.clear()

    def _later(self, step: Callable[[], None]) -> None:
        latency_s = self._rng.uniform(0, self._disk.latency_max_s)
        asyncio.get_running_loop().call_later(latency_s, self._unless_dead, step)

    def _unless_dead(self, step: Callable[[], None]) -> None:
        if not self._dead:
            step()

    def _do(self) -> None:
        future, job = self._jobs.popleft()
        if not future.set_running_or_notify_cancel():
            self._next()
            return
        try:
            tell = partial(future.set_result, job())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            tell = partial(future.set_exception, error)
        self._later(partial(self._tell, tell))

    def _tell(self, tell: Callable[[], None]) -> None:
        tell()
        self._next()

    def _next(self) -> None:
        if self._jobs:
            self._later(self._do)
        else:
            self._busy = False


class SimStore(Store):
    """The store of one run of an agent."""

    def __init__(self, disk: Disk, rng: random.Random) -> None:
        super().__init__(Path(":memory:"))
        self._simulated = _Thread(disk, rng)
        vars(self).update(_journal=disk.journal, _snapshot=disk, _thread=self._simulated)

    async def end(self) -> None:
        """Does what was handed in, and then nothing more; mirrors `Store._close`."""
        while self._waiting or self._writing:
            await self._run(lambda: None)
        self.die()

    def die(self) -> None:
        """Ends in the middle of whatever it does."""
        self._simulated.die()
