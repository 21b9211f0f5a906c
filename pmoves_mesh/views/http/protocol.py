"""One HTTP connection, as aiohttp serves it, with a deadline for the headers of each request.

aiohttp ends a connection that is idle; without this, one that sends a byte now and then would
hold its place for as long.

Source: CWE-400 (uncontrolled resource consumption).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

Quick = Callable[[bytes, str], bytes | None]
"""Answers what came from an address, if it can at once."""

_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpConnection(web.RequestHandler):
    """A connection whose client has to say what it wants in time.

    Attributes:
        may_break_off: whether what is being answered may be broken off when the client is gone.
    """

    __slots__ = (
        "_deadline",
        "_header_s",
        "_live",
        "_mid_header",
        "_on_end",
        "_quick",
        "_remote",
        "_wire",
        "may_break_off",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        header_s: float,
        quick: Quick,
        live: set[HttpConnection],
        on_end: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        """Makes the protocol of a connection to come.

        Args:
            manager: the server.
            header_s: seconds within which the first request must come, and each later one be complete.
            quick: is asked first, and answers what it can at once.
            live: holds it for as long as the connection is open.
            on_end: called when the connection is over.
            options: what aiohttp's own handler takes.
        """
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self.may_break_off = False
        self._header_s = header_s
        self._quick = quick
        self._remote = ""
        self._live = live
        self._on_end = on_end
        self._deadline: asyncio.TimerHandle | None = None
        self._mid_header = False
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wire = self.transport
        self._remote = str(self.peername[0]) if self.peername else ""
        self._live.add(self)
        self._begin_waiting()

    def data_received(self, data: bytes) -> None:
        """Takes what came, and notes whether the headers of a request are complete with it."""
        wire, waiter = self._wire, self._waiter
        # Nothing is being answered, no request has begun, none is to follow the end, and the last answer
        # was taken: so whatever comes now begins a request.
        if (
            waiter is not None
            and not waiter.done()
            and not self._mid_header
            and not self._force_close
            and wire is not None
            and not wire.get_write_buffer_size()
        ):
            answer = self._quick(data, self._remote)
            if answer is not None:
                if self._deadline is not None:
                    self._end_waiting()
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                wire.write(answer)
                return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._end_waiting()
        elif self._deadline is not None:
            self._mid_header = True
        elif self._waiter is not None and not self._waiter.done():
            # Nothing is being answered, so this is no body: the next request has begun.
            self._mid_header = True
            self._begin_waiting()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells whoever counts connections."""
        self._end_waiting()
        self._live.discard(self)
        answering = self._task_handler if self.may_break_off else None
        super().connection_lost(exc)
        if answering is not None:
            answering.cancel()
        self._wire = None
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def abort(self) -> None:
        """Ends the connection at once, whatever is still to be sent."""
        if self._wire is not None:
            self._wire.abort()

    def _begin_waiting(self) -> None:
        self._deadline = self._loop.call_later(self._header_s, self._give_up)

    def _end_waiting(self) -> None:
        self._mid_header = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._mid_header and self.transport is not None and not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
        self.force_close()
