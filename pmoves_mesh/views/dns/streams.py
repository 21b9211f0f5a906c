"""DNS over TCP: questions one after another on a connection, each with its length before it.

Source: RFC 7766 (pipelining, idle connections), RFC 1035 section 4.2.2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

from pmoves_mesh.views.dns.responder import Responder

_LENGTH_BYTES: Final = 2


@dataclass(frozen=True, kw_only=True)
class StreamBounds:
    """What a client may take.

    Attributes:
        idle_s: seconds within which a question must be complete, and its answer taken.
        connections_max: how many connections may be open.
        connections_per_host_max: how many of them one host may have.
        question_bytes_max: how long a question may be.
    """

    idle_s: float = 10.0
    connections_max: int = 256
    connections_per_host_max: int = 64
    question_bytes_max: int = 4096


class StreamConnection(asyncio.Protocol):
    """One connection; what is no question ends it, and so does silence."""

    def __init__(self, responder: Responder, bounds: StreamBounds, live: set[StreamConnection]) -> None:
        """Makes the protocol of a connection to come.

        Args:
            responder: answers.
            bounds: what the client may take.
            live: holds this for as long as the connection is open.
        """
        self._responder = responder
        self._bounds = bounds
        self._live = live
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._deadline: asyncio.TimerHandle | None = None
        self._paused = False
        self._host = ""

    @property
    def host(self) -> str:
        """The address of the client."""
        return self._host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a question, unless there are too many who do."""
        self._transport = cast("asyncio.Transport", transport)
        self._host = (transport.get_extra_info("peername") or ("",))[0]
        of_host = sum(other.host == self._host for other in self._live)
        if (
            len(self._live) >= self._bounds.connections_max
            or of_host >= self._bounds.connections_per_host_max
        ):
            self._transport.abort()
            return
        self._live.add(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leaves its place to others."""
        del exc
        self._live.discard(self)
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Answers every question that is complete with this."""
        self._received += data
        self._answer()

    def pause_writing(self) -> None:
        """Takes no more questions while answers are not taken."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on where it paused."""
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()
            self._answer()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self) -> None:
        while not self._paused and self._transport is not None and not self._transport.is_closing():
            if len(self._received) < _LENGTH_BYTES:
                return
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "big")
            if end > _LENGTH_BYTES + self._bounds.question_bytes_max:
                self.abort()
                return
            if len(self._received) < end:
                return
            question = bytes(self._received[_LENGTH_BYTES:end])
            del self._received[:end]
            answer = self._responder.stream(question)
            if answer is None:
                self.abort()
                return
            self._transport.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
            self._wait()

    def _wait(self) -> None:
        """Begins to wait for the next question."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(self._bounds.idle_s, self.abort)
