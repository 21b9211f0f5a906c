"""One reader of `GET /api/watch`: written to directly while it keeps up, and else caught up with later."""

from __future__ import annotations

import asyncio
from typing import Final

from pmoves_mesh.views.http.events import EndReason
from pmoves_mesh.views.http.events import chunk as chunk_of

BEHIND_BYTES_MAX: Final = 256 * 1024
"""How much may wait for a reader before it is behind; a single frame may be larger than that."""

AT_EASE_BYTES: Final = 64 * 1024
"""How much may still wait for it when it is told of changes again."""

_POLL_S: Final = 0.02


class Watcher:
    """A connection that is told of changes.

    Nothing is written to a reader that is behind. Once it has taken what waits for it, it is told of
    what it missed, as that is by then; so no more waits for it than it was when it fell behind.

    Attributes:
        position: up to where it was told.
        told: how many differences of its broadcast it was told.
        live: whether it is written to when something changes.
        reason: why it is told no more, once that is so.
    """

    __slots__ = ("_chunked", "_stopped", "_transport", "live", "position", "reason", "told")

    def __init__(self, transport: asyncio.Transport, *, chunked: bool) -> None:
        self.position = 0
        self.told = 0
        self.live = False
        self.reason: EndReason | None = None
        self._transport = transport
        self._chunked = chunked
        self._stopped = asyncio.Event()

    def send(self, frame: bytes, chunk: bytes) -> bool:
        """Writes what all are told, and returns whether it did: not to one that is behind, or is gone.

        Args:
            frame: the bytes.
            chunk: the same as a chunk of HTTP/1.1.
        """
        # uvloop refuses to write to a connection that is closing, until whoever serves it hears of that.
        if not self.live or self._transport.is_closing():
            return False
        if self._transport.get_write_buffer_size() > BEHIND_BYTES_MAX:
            self._stop()
            return False
        self._transport.write(chunk if self._chunked else frame)
        return True

    def write(self, frame: bytes) -> None:
        """Writes what it alone is told, whatever waits for it.

        Raises:
            ConnectionError: if it is gone.
        """
        if self._transport.is_closing():
            raise ConnectionResetError
        if frame:
            self._transport.write(chunk_of(frame) if self._chunked else frame)

    async def taken(self, within_s: float, *, all_but: int = 0) -> bool:
        """Waits until it has taken what waits for it, and returns whether it did; one that does not ends.

        Args:
            within_s: how long it may take for that, in seconds.
            all_but: how many bytes of it may be left.

        Raises:
            ConnectionError: if it is gone.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        # Its protocol could tell, but forgets how once somebody has stopped waiting for that.
        while (left := self._transport.get_write_buffer_size()) > all_but and loop.time() < until_s:
            if self._transport.is_closing():
                raise ConnectionResetError
            await asyncio.sleep(_POLL_S)
        if left > all_but:
            self.end("slow")
        return left <= all_but

    def end(self, reason: EndReason) -> None:
        """Lets it be told no more."""
        if self.reason is None:
            self.reason = reason
            self._stop()

    async def stopped(self) -> None:
        """Waits until it is not live any more: it is behind, or it has ended."""
        await self._stopped.wait()
        self._stopped.clear()

    def abort(self) -> None:
        """Ends its connection at once."""
        self._transport.abort()

    def _stop(self) -> None:
        self.live = False
        self._stopped.set()
