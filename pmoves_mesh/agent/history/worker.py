"""The process that tells of the past: `python -m pmoves_mesh.agent.history.worker`, started by the agent.

It has a connection of its own, replays and verifies, and answers as its questions come. It is nicer than
the agent, so that where both want the processor the present comes first.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from contextlib import aclosing, suppress
from typing import Final

import structlog
import uvloop

from pmoves_mesh.agent.history.answers import Answers
from pmoves_mesh.agent.history.frames import (
    Answered,
    Asked,
    Dropped,
    Failed,
    FromWorker,
    Setup,
    Taken,
    frame,
    read_request,
)
from pmoves_mesh.agent.history.keeping import Keeping
from pmoves_mesh.agent.history.replay import Replayer
from pmoves_mesh.agent.history.showing import Showing
from pmoves_mesh.agent.logs import configure_logging
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.history import EventsFollowed
from pmoves_mesh.core.moments import BeforeHistoryError
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import InvalidFieldError, LogUnavailable, MeshError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.checkpoints import NatsCheckpoints
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.past import NatsPast
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.identity import Identity, verified_identity
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

_log: Final = structlog.get_logger(__name__)

_NICENESS: Final = 5
_CONNECT_S: Final = 5.0
_PIPE_BYTES: Final = 2**20
_GARBAGE_EVERY: Final = (100_000, 50, 50)
"""A registry is many objects at once, and none of them is in a circle."""


class Worker:
    """Answers what it is asked, until nobody asks any more."""

    def __init__(self, setup: Setup, connection: Connection, writer: asyncio.StreamWriter) -> None:
        self._setup = setup
        self._connection = connection
        self._writer = writer
        self._clock = SystemClock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._taken: dict[int, asyncio.Event] = {}
        past, checkpoints = NatsPast(connection), NatsCheckpoints(connection)
        replayer = Replayer(past, checkpoints, NatsBucket(connection, topology.REGISTRY), self._verifier())
        self._showing = Showing(past, replayer)
        keeping = Keeping(past, checkpoints, replayer, self._identity, self._seed)
        self._answers = Answers(past, replayer, self._showing, keeping)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Answers until `reader` ends."""
        async with asyncio.TaskGroup() as group:
            while (message := await read_request(reader)) is not None:
                match message:
                    case Asked():
                        task = group.create_task(self._answer(message))
                        self._tasks[message.number] = task
                    case Taken() if message.number in self._taken:
                        self._taken[message.number].set()
                    case Dropped() if message.number in self._tasks:
                        self._tasks[message.number].cancel()
                    case _:
                        pass
            for task in self._tasks.values():
                task.cancel()

    async def _answer(self, asked: Asked) -> None:
        number = asked.number
        try:
            await self._connection.wait_connected(_CONNECT_S)
            if isinstance(asked.question, EventsFollowed):
                await self._follow(number, asked.question)
            else:
                await self._send(Answered(number=number, told=[await self._answers.answer(asked.question)]))
        except MeshError as error:
            await self._send(_failed(number, error))
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the log has the rest
            _log.exception("a question about the past failed", question=type(asked.question).__name__)
            await self._send(_failed(number, error))
        finally:
            self._tasks.pop(number, None)
            self._taken.pop(number, None)

    async def _follow(self, number: int, wanted: EventsFollowed) -> None:
        taken = self._taken[number] = asyncio.Event()
        async with aclosing(self._showing.follow(wanted)) as groups:
            async for group in groups:
                told = [self._showing.told(event) for event in group]
                await self._send(Answered(number=number, told=told))
                await taken.wait()
                taken.clear()

    async def _send(self, message: FromWorker) -> None:
        self._writer.write(frame(message))
        with suppress(ConnectionError):
            await self._writer.drain()

    def _verifier(self) -> Verifier:
        setup = self._setup
        trust = Trust(setup.mesh, keystore.read_roots(setup.tls_dir))
        identities = NatsBucket(self._connection, topology.IDENTITIES)
        return Verifier(trust, identities, self._clock, accept_unsigned=setup.accept_unsigned)

    def _identity(self) -> Identity:
        setup = self._setup
        certificate, key = read_certificates(setup.certificate)[0], read_key(setup.key)
        return verified_identity(setup.mesh, setup.node, keystore.read_roots(setup.tls_dir), certificate, key)

    async def _seed(self) -> Registry:
        """Returns the registry as a new agent would begin with it, which never saw the stream's beginning."""
        log, bucket = NatsEventLog(self._connection), NatsBucket(self._connection, topology.REGISTRY)
        floor = await NatsWorkQueue(self._connection).floor()
        bounds = await log.bounds()
        replica = Replica(self._verifier(), log, bucket, self._clock)
        await replica.restore_from_bucket(max(floor, bounds.first - 1))
        return replica.registry


def _failed(number: int, error: Exception) -> Failed:
    kind, text = type(error).__name__, str(error)[:500]
    match error:
        case InvalidFieldError():
            return Failed(number=number, kind=kind, text=error.problem, field=error.field)
        case BeforeHistoryError():
            return Failed(
                number=number,
                kind=kind,
                text=text,
                field=error.field,
                from_position=error.from_position,
                from_time=error.from_time,
            )
        case MeshError():
            return Failed(number=number, kind=kind, text=text)
        case _:
            return Failed(number=number, kind=kind, text="this agent has a fault; its log says more")


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_PIPE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    setup = await read_request(reader)
    if not isinstance(setup, Setup):
        return
    async with Connection(setup.nats) as connection:
        await Worker(setup, connection, writer).run(reader)


def main() -> None:
    """Runs until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the agent too, which ends this
    os.nice(_NICENESS)
    gc.set_threshold(*_GARBAGE_EVERY)
    configure_logging()
    with suppress(LogUnavailable):
        uvloop.run(_serve())


if __name__ == "__main__":
    main()
