"""The least that a Python server can do: asyncio with uvloop, and the same bytes for whatever is asked.

    python benchmarks/bare.py PORT FILE

answers every request with what the file holds, until it is ended. What it reaches is the limit for any
server in Python on one core, and so what CI compares with.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

_END = b"\r\n\r\n"


class _Bare(asyncio.Protocol):
    """One connection; a request is whatever ends in an empty line, and may be followed by a body."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keeps what answers go to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers, if it was a whole request."""
        if _END in data:
            self._transport.write(self._answer)


async def _serve(port: int, answer: bytes) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Bare(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
