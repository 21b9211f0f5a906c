"""A line that is slow: whoever reads much over it takes the time that takes for nothing worse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from log_support import connected, event, in_chunks, read_until
from nats_server import NatsServer
from ports import free_port

from pmoves_mesh.log import session as session_module
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.stream import NatsEventLog

PIECE_BYTES = 8 * 1024
PIECE_S = 0.02
COUNT = 2000


class SlowLine:
    """Hands on what a server says a piece at a time, and what its clients say at once.

    Attributes:
        calls: how often somebody connected.
    """

    def __init__(self, port: int) -> None:
        self.calls = 0
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        upwards = asyncio.create_task(self._hand_on(reader, to_there, 0))
        try:
            await self._hand_on(there, writer, PIECE_S)
        finally:
            upwards.cancel()
            writer.close()
            to_there.close()

    async def _hand_on(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, pause_s: float) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                to.write(piece)
                await to.drain()
                await asyncio.sleep(pause_s)


@pytest.fixture
async def line(nats_server: NatsServer) -> AsyncIterator[tuple[SlowLine, int]]:
    slow, port = SlowLine(nats_server.port), free_port()
    async with await asyncio.start_server(slow.serve, "127.0.0.1", port):
        yield slow, port


async def test_a_backlog_that_takes_longer_than_an_answer_may_is_read_to_its_end_over_one_connection(
    connection: Connection, line: tuple[SlowLine, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_chunks([partial(NatsEventLog(connection).publish, event(number)) for number in range(COUNT)])
    # Some 700 KB at 400 KB/s: several times what an answer may take.
    monkeypatch.setattr(session_module, "_PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(session_module, "_PING_TIMEOUT_S", 0.3)
    slow, port = line
    settings = NatsSettings(servers=(f"nats://127.0.0.1:{port}",))
    async with connected(settings) as slowly, contextlib.aclosing(NatsEventLog(slowly).tail(0)) as tail:
        messages = await read_until(tail, COUNT)
    assert [message.position for message in messages] == list(range(1, COUNT + 1))
    assert slow.calls == 1
