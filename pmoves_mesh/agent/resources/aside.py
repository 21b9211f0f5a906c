"""Work aside: what blocks, and may never come back, done beside the loop and beside the agent's end.

The executor of asyncio waits for its threads when the program ends. A driver whose GPU has gone can
hold a thread for good, so each such piece of work has a thread of its own, which nobody waits for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Aside(Generic[_T]):
    """One piece of work that blocks, done again and again, never twice at a time."""

    def __init__(self, work: Callable[[], _T], name: str) -> None:
        """Takes the work, and what its threads are called."""
        self._work = work
        self._name = name
        self._pending: Future[_T] | None = None

    async def run(self, patience_s: float) -> _T:
        """Returns what the work gives, if it does so within `patience_s` seconds.

        Raises:
            TimeoutError: if it takes too long; later calls wait for that same work.
        """
        if self._pending is None:
            self._pending = Future()
            threading.Thread(target=self._do, args=(self._pending,), name=self._name, daemon=True).start()
        pending = self._pending
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(asyncio.wrap_future(pending))
        finally:
            if pending.done():
                self._pending = None

    def _do(self, pending: Future[_T]) -> None:
        try:
            pending.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            pending.set_exception(error)
