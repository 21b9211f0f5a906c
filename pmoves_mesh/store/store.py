"""The local database as the agent sees it: asynchronous, in order, durable when it answers.

One thread does all the reading and writing. Changes that arrive while it waits for the disk go
into the next transaction together, so that the number of waits follows the disk, not the load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from pmoves_mesh.errors import CapacityError, MeshError, StoreError
from pmoves_mesh.store.journal import Change, Journal
from pmoves_mesh.store.records import (
    Commit,
    NodeState,
    OutboxEntry,
    Sent,
    StoredRegistration,
    StoredSnapshot,
)
from pmoves_mesh.store.snapshot import SnapshotFile

DATABASE_FILE: Final = "mesh.db"
SNAPSHOT_FILE: Final = "snapshot.db"

_WAITING_MAX: Final = 100_000
_GROUP_MAX: Final = 256
_DEADLINE_S: Final = 30.0

_T = TypeVar("_T")


class _Waiting(NamedTuple):
    """A change that is not yet durable, and who is to be told."""

    change: Change
    told: asyncio.Future[tuple[int, ...]]


class Store:
    """The database of one node. Every method that waits may raise `StoreError`."""

    def __init__(self, data_dir: Path) -> None:
        self._path: Final = data_dir / DATABASE_FILE
        self._journal: Final = Journal(self._path)
        self._snapshot: Final = SnapshotFile(data_dir / SNAPSHOT_FILE)
        self._thread: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._waiting: Final[deque[_Waiting]] = deque()
        self._writing = False
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def opened(cls, data_dir: Path) -> AsyncIterator[Self]:
        """Opens the database in `data_dir`, which is made if need be, and closes it at the end.

        Raises:
            StoreError: if it cannot be opened, is damaged, or was written by a newer release.
        """
        store = cls(data_dir)
        try:
            await store._run(store._journal.open)
            yield store
        finally:
            await store._close()

    @property
    def state(self) -> NodeState:
        """The node's state, as it was last made durable."""
        return self._journal.state

    @property
    def outbox_depth(self) -> int:
        """How many events wait to be published."""
        return self._journal.outbox_depth

    def commit(self, commit: Commit) -> asyncio.Future[tuple[int, ...]]:
        """Makes a change durable, after all those that were handed in before.

        It is handed in at once, and takes as long as the disk does, so that the answer is always certain.
        If that is cancelled meanwhile, the change may be made nevertheless.

        Returns:
            What gives the places of its events in the outbox, or raises: `CapacityError`, if the outbox is
            full or too many wait for the disk, or `StoreError`, if it cannot be written, or does not follow
            what was written before. Then nothing was changed.
        """
        return self._hand_in(commit)

    async def sent(self, seqs: Sequence[int]) -> None:
        """Takes published events out of the outbox, by their places; those not in it are ignored."""
        if not seqs:
            return
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._hand_in(Sent(seqs=seqs))
        except TimeoutError:
            raise self._too_slow() from None

    async def registrations(self) -> list[StoredRegistration]:
        """Returns every registration, by service and id."""
        return await self._run(self._journal.registrations)

    async def outbox(self, count_max: int) -> list[OutboxEntry]:
        """Returns the events that have waited longest, up to `count_max`, in order."""
        return await self._run(partial(self._journal.outbox, count_max))

    async def save_snapshot(self, position: int, stream_id: str, blob: bytes) -> None:
        """Replaces the snapshot of the registry."""
        snapshot = StoredSnapshot(position=position, stream_id=stream_id, blob=blob)
        await self._run(partial(self._snapshot.save, snapshot))

    async def load_snapshot(self) -> StoredSnapshot | None:
        """Returns the snapshot, or None if there is none, or only a damaged one, which is set aside."""
        return await self._run(self._snapshot.load)

    async def _run(self, job: Callable[[], _T]) -> _T:
        """Runs `job` in the store's thread, after what is already under way there."""
        self._check_open()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except TimeoutError:
            raise self._too_slow() from None

    def _hand_in(self, change: Change) -> asyncio.Future[tuple[int, ...]]:
        told: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        if self._closed:
            told.set_exception(self._is_closed())
        elif len(self._waiting) >= _WAITING_MAX:
            told.set_exception(CapacityError("changes that wait for the disk", _WAITING_MAX))
        else:
            self._waiting.append(_Waiting(change, told))
            if not self._writing:
                self._start_writing()
        return told

    def _start_writing(self) -> None:
        """Hands the changes that wait to the thread, as one transaction."""
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP_MAX))]
        self._writing = True
        job = partial(self._journal.write, [waiting.change for waiting in group])
        written = asyncio.get_running_loop().run_in_executor(self._thread, job)
        written.add_done_callback(partial(self._tell, group))

    def _tell(
        self, group: list[_Waiting], written: asyncio.Future[list[tuple[int, ...] | MeshError]]
    ) -> None:
        """Tells each of a group what became of its change, and begins the next group."""
        failure = written.exception()
        outcomes = [failure] * len(group) if failure else written.result()
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.told.done():
                continue
            if isinstance(outcome, BaseException):
                waiting.told.set_exception(outcome)
            else:
                waiting.told.set_result(outcome)
        self._writing = False
        if self._waiting:
            self._start_writing()

    async def _close(self) -> None:
        """Finishes what was handed in, and closes the files, even if it is cancelled meanwhile."""
        self._closed = True
        while self._waiting:
            self._start_writing()
        closed = asyncio.get_running_loop().run_in_executor(self._thread, self._journal.close)
        self._thread.shutdown(wait=False)
        try:
            await asyncio.wait([closed], timeout=_DEADLINE_S)
        except asyncio.CancelledError:
            await asyncio.wait([closed], timeout=_DEADLINE_S)
            raise
        if not closed.done():
            raise self._too_slow()
        closed.result()

    def _check_open(self) -> None:
        if self._closed:
            raise self._is_closed()

    def _is_closed(self) -> StoreError:
        return StoreError(str(self._path), "it is closed")

    def _too_slow(self) -> StoreError:
        return StoreError(str(self._path), f"no answer within {_DEADLINE_S:.0f} s: is the disk failing?")
