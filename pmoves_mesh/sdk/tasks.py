"""What runs in the background while a program is in the mesh, and ends with it.

Not a `TaskGroup`: that would wrap whatever the program's own code raises into a group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

import structlog

_log: Final = structlog.get_logger(__name__)


class Tasks:
    """Background tasks; leaving it ends them, and raises what made one fail, if nothing else is raised."""

    def __init__(self) -> None:
        self._running: Final[set[asyncio.Task[None]]] = set()
        self._failure: BaseException | None = None

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `work` in the background."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        if self._failure is not None and error is None:
            raise self._failure

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failure = self._failure or failure
            _log.error("a part of the mesh failed", part=task.get_name(), exc_info=failure)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task, and returns when it is over."""
    task.cancel()
    await asyncio.wait((task,))
