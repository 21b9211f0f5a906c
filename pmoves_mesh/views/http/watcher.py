"""One reader of `GET /api/watch`: it is written to directly, and given up if it does not keep up."""

from __future__ import annotations

import asyncio
from typing import Final

from pmoves_mesh.views.http.events import EndReason

BEHIND_BYTES_MAX: Final = 256 * 1024
"""How much may wait for a reader before it is too slow; a single frame may be larger than that."""


class Watcher:
    """A connection that was shown what matches, and is told of changes.

    Attributes:
        position: up to where it was told.
        ended: why it is told no more, once that is so.
    """

    __slots__ = ("_chunked", "_transport", "ended", "position")

    def __init__(self, transport: asyncio.Transport, position: int, *, chunked: bool) -> None:
        self.position = position
        self.ended: Final[asyncio.Future[EndReason]] = asyncio.get_running_loop().create_future()
        self._transport = transport
        self._chunked = chunked

    def send(self, frame: bytes, chunk: bytes, position: int) -> None:
        """Writes what all are told, unless this reader has not taken what it was told before.

        Args:
            frame: the bytes.
            chunk: the same as a chunk of HTTP/1.1.
            position: up to where they tell.
        """
        if self.ended.done():
            return
        if self._transport.get_write_buffer_size() > BEHIND_BYTES_MAX:
            self.end("slow")
            return
        self._transport.write(chunk if self._chunked else frame)
        self.position = max(self.position, position)

    def end(self, reason: EndReason) -> None:
        """Tells it nothing more."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def abort(self) -> None:
        """Ends its connection at once."""
        self._transport.abort()
