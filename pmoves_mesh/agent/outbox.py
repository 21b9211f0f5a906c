"""The outbox: what this node has to say, kept until the stream has it, and sent in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from pmoves_mesh.errors import LogError, RightMissing, StoreError
from pmoves_mesh.ports import Clock, EventLog
from pmoves_mesh.store.records import OutboxEntry
from pmoves_mesh.store.store import Store

_log: Final = structlog.get_logger(__name__)

_WINDOW: Final = 256
_RETRY_S: Final = 0.1
_COMPLAINT_EVERY_S: Final = 60.0
_FORGET_EVERY_S: Final = 0.1
_FIRST_SEQ: Final = 1


class Outbox:
    """Sends durable events to the stream, each until it is acknowledged there.

    A repetition after a crash or a lost acknowledgement is recognised by its message id, or
    ignored by its stamp.

    Attributes:
        problem: why what waits is not taken now; empty if nothing is refused.
    """

    def __init__(self, store: Store, log: EventLog, clock: Clock) -> None:
        self.problem = ""
        self._store = store
        self._log = log
        self._clock = clock
        self._waiting: deque[tuple[OutboxEntry, asyncio.Future[int]]] = deque()
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._complained_s = -_COMPLAINT_EVERY_S
        self._sent: list[int] = []
        self._some_sent = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many events wait."""
        return len(self._waiting)

    def put(self, entry: OutboxEntry) -> asyncio.Future[int]:
        """Queues an event that the store holds already; the future gives its position in the stream."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        self._emptied.clear()
        self._wake.set()
        return future

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nothing waits any more, here and in the file; returns whether that was so in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._emptied.wait()
                await self._forget()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Sends for ever; while the log is away it keeps what it has.

        Raises:
            RightMissing: if this node may not send the first event of its life: that needs a person.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                sent = await self._send_window()
                if sent:
                    self._sent += sent
                    self._some_sent.set()
                if not self._waiting:
                    self._emptied.set()
                elif not sent:
                    await self._clock.sleep(_RETRY_S)

    async def forget_sent(self) -> None:
        """Takes what was sent out of the file, for ever; nothing that is still to be sent waits for that."""
        while True:
            await self._some_sent.wait()
            await self._clock.sleep(_FORGET_EVERY_S)
            await self._forget()

    async def _forget(self) -> None:
        sent, self._sent = self._sent, []
        self._some_sent.clear()
        try:
            await self._store.sent(sent)
        except StoreError as error:
            # They are sent once more at the next start, and known by their ids or stamps.
            _log.warning("sent events stay in the outbox's file", detail=str(error))

    async def _send_window(self) -> list[int]:
        """Sends the first events side by side; returns the sequences of those before the first failure."""
        window = [self._waiting[index] for index in range(min(_WINDOW, len(self._waiting)))]
        results = await asyncio.gather(
            *(self._log.publish(entry.sealed, ttl_s=entry.ttl_s) for entry, _ in window),
            return_exceptions=True,
        )
        sent: list[int] = []
        self.problem = ""
        for (entry, future), result in zip(window, results, strict=True):
            if isinstance(result, RightMissing) and entry.seq == _FIRST_SEQ:
                raise result
            if isinstance(result, LogError):
                self.problem = str(result)
                self._complain(result)
                break
            if isinstance(result, BaseException):
                raise result
            self._waiting.popleft()
            sent.append(entry.seq)
            if not future.done():
                future.set_result(result)
        return sent

    def _complain(self, error: LogError) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._complained_s >= _COMPLAINT_EVERY_S:
            self._complained_s = now_s
            _log.warning("outbox waits for the log", depth=self.depth, detail=str(error))
