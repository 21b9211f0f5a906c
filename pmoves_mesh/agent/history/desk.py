"""The desk: where questions about the past are handed in, and the process that answers them is looked after.

The process is started by the first question and ends once nobody has asked for a while. Nothing that it
does keeps the agent's event loop; what comes from it is bytes that are passed on.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from pmoves_mesh.agent.history.frames import (
    Answered,
    Asked,
    Dropped,
    Failed,
    FromWorker,
    Setup,
    Taken,
    ToWorker,
    frame,
    read_answer,
)
from pmoves_mesh.core.history import EventsFollowed, HistoryBusyError, KeepUpTo, Question, Told
from pmoves_mesh.core.moments import BeforeHistoryError
from pmoves_mesh.errors import InvalidFieldError, LogUnavailable, MeshError

_log: Final = structlog.get_logger(__name__)

QUESTIONS_MAX: Final = 4
FOLLOWERS_MAX: Final = 64

_PROGRAM: Final = (sys.executable, "-m", "pmoves_mesh.agent.history.worker")
_ANSWER_S: Final = 30.0
_KEEP_S: Final = 3600.0
_START_S: Final = 10.0
_IDLE_S: Final = 60.0
_END_S: Final = 1.0
_WAITING_MAX: Final = 2
_PIPE_BYTES: Final = 2**20
_ENDED: Final = "Ended"


class HistoryDesk:
    """Asks the process, and restarts it when it has ended; implements `facade.Historian`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[FromWorker]] = {}
        self._sent: set[int] = set()
        self._questions = 0
        self._followers = 0
        self._wanted = asyncio.Event()
        self._up = asyncio.Event()
        self._process: Process | None = None
        self._stirred = asyncio.Event()

    @property
    def following(self) -> int:
        """How many follow the events now."""
        return self._followers

    async def run(self) -> None:
        """Keeps the process there while it is wanted, for ever."""
        while True:
            await self._wanted.wait()
            try:
                await self._live()
            except OSError as error:
                _log.error("the process that tells of the past cannot be started", detail=str(error))
                await asyncio.sleep(_END_S)
            finally:
                self._up.clear()
                self._process = None
                for number in self._sent & self._waiting.keys():
                    failed = Failed(number=number, kind=_ENDED, text="its process ended; ask again")
                    _put_last(self._waiting[number], failed)
                self._sent.clear()
            if not self._waiting:
                self._wanted.clear()

    async def ask(self, question: Question) -> Told:
        """Returns the answer to a question; see `facade.Historian`."""
        if isinstance(question, KeepUpTo):
            return await self._asked(question, _KEEP_S)
        if self._questions >= QUESTIONS_MAX:
            raise HistoryBusyError("questions about the past", QUESTIONS_MAX)
        self._questions += 1
        try:
            return await self._asked(question, _ANSWER_S)
        finally:
            self._questions -= 1

    async def follow(self, wanted: EventsFollowed) -> AsyncGenerator[Sequence[Told], None]:
        """Yields events as they come; see `facade.Historian`."""
        if self._followers >= FOLLOWERS_MAX:
            raise HistoryBusyError("readers that follow the events", FOLLOWERS_MAX)
        self._followers += 1
        try:
            with self._handed_in() as (number, queue):
                await self._start()
                self._hand_over(number, wanted)
                yield await self._begun(number, queue)
                while True:
                    yield _answered(await queue.get())
                    self._send(Taken(number=number))
        finally:
            self._followers -= 1

    async def _begun(self, number: int, queue: asyncio.Queue[FromWorker]) -> Sequence[Told]:
        """Returns the first group of what is followed."""
        try:
            async with asyncio.timeout(_START_S):
                begin = _answered(await queue.get())
        except TimeoutError:
            raise LogUnavailable(f"the events were not told within {_START_S:.0f} s") from None
        self._send(Taken(number=number))
        return begin

    async def _asked(self, question: Question, within_s: float) -> Told:
        """Returns an answer; a question whose process ended meanwhile is asked once more."""
        try:
            async with asyncio.timeout(within_s):
                answer = await self._once(question)
                if isinstance(answer, Failed) and answer.kind == _ENDED:
                    answer = await self._once(question)
        except TimeoutError:
            raise LogUnavailable(f"the past was not told within {within_s:.0f} s") from None
        return _answered(answer)[0]

    async def _once(self, question: Question) -> FromWorker:
        with self._handed_in() as (number, queue):
            await self._start()
            self._hand_over(number, question)
            return await queue.get()

    @contextmanager
    def _handed_in(self) -> Iterator[tuple[int, asyncio.Queue[FromWorker]]]:
        """Keeps a place for an answer, and lets the process know when nobody waits for it any more."""
        number = next(self._numbers)
        queue: asyncio.Queue[FromWorker] = asyncio.Queue(_WAITING_MAX)
        self._waiting[number] = queue
        try:
            yield number, queue
        finally:
            del self._waiting[number]
            self._sent.discard(number)
            self._send(Dropped(number=number))
            self._stirred.set()

    async def _start(self) -> None:
        """Waits until there is a process.

        Raises:
            LogUnavailable: if there is none in time.
        """
        self._wanted.set()
        try:
            async with asyncio.timeout(_START_S):
                await self._up.wait()
        except TimeoutError:
            raise LogUnavailable("the process that tells of the past has not started") from None

    def _hand_over(self, number: int, question: Question) -> None:
        self._sent.add(number)
        self._send(Asked(number=number, question=question))

    def _send(self, message: ToWorker) -> None:
        """Writes to the process, if there is one; questions are small, and their number is bounded."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(frame(message))

    async def _live(self) -> None:
        """Runs one process, from its start to its end."""
        process = await asyncio.create_subprocess_exec(*_PROGRAM, stdin=PIPE, stdout=PIPE, limit=_PIPE_BYTES)
        try:
            self._process = process
            self._send(self._setup)
            self._up.set()
            async with asyncio.TaskGroup() as group:
                idling = group.create_task(self._end_when_idle(process), name="history-idle")
                await self._listen(process)
                idling.cancel()
        finally:
            await _end(process)

    async def _listen(self, process: Process) -> None:
        if process.stdout is None:
            return
        while (message := await read_answer(process.stdout)) is not None:
            queue = self._waiting.get(message.number)
            if queue is not None:
                _put_last(queue, message)

    async def _end_when_idle(self, process: Process) -> None:
        """Ends the process by ending its input, once nobody has waited for an answer for a while."""
        while True:
            self._stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._stirred.wait()
                    continue
            if not self._waiting and process.stdin is not None:
                self._up.clear()
                self._wanted.clear()
                process.stdin.close()
                return


async def _end(process: Process) -> None:
    """Sees a process gone, whatever it is doing."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _put_last(queue: asyncio.Queue[FromWorker], message: FromWorker) -> None:
    """Puts a message in, in the place of an earlier one if there is no room: nobody should have sent that."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(message)


def _answered(message: FromWorker) -> Sequence[Told]:
    if isinstance(message, Answered):
        return message.told
    raise _error_of(message)


def _error_of(failed: Failed) -> MeshError:
    match failed.kind:
        case "InvalidFieldError":
            return InvalidFieldError(failed.field, failed.text)
        case "BeforeHistoryError":
            return BeforeHistoryError(failed.field, failed.from_position, failed.from_time)
        case _:
            return LogUnavailable(f"the past cannot be told now: {failed.text}")
