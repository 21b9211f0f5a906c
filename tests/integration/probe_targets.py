"""What tests let probes ask: real servers on loopback, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
SEND_BUFFER_BYTES = 32 * 1024
REQUEST_BYTES_MAX = 64 * 1024


@dataclass
class Target:
    """A server that answers each request by one function, and then closes.

    Attributes:
        asked: the head of each request, in order.
        sent: bytes that the present connection took from it.
        broken: set once the other end broke off a connection.
    """

    answer: Callable[[Target, asyncio.StreamWriter], Awaitable[None]]
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    port: int = 0
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}/healthz"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.decode())
            await self.answer(self, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.broken.set()
        finally:
            writer.close()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


def says(status: int, body: str = "ok", **headers: str) -> Callable[..., Awaitable[None]]:
    """Returns what answers every request alike; `_` in a header's name stands for `-`."""
    fields = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    answer = f"HTTP/1.1 {status} Whatever\r\n{head}\r\n{body}".encode()

    async def say(target: Target, writer: asyncio.StreamWriter) -> None:
        await target.send(writer, answer)

    return say


@asynccontextmanager
async def target(
    answer: Callable[..., Awaitable[None]], *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Target]:
    """Runs a server while the context lasts."""
    made = Target(answer, tls=tls is not None)
    async with asyncio.TaskGroup() as tasks:
        running: list[asyncio.Task[None]] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            running.append(tasks.create_task(made.serve(reader, writer)))

        server = await asyncio.start_server(accept, HOST, port, ssl=tls, limit=REQUEST_BYTES_MAX)
        # So that what a connection took is what the other end took, and not what waits in here.
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        made.port = server.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            server.close()
            for task in running:
                task.cancel()


@contextmanager
def grpc_server(*options: str) -> Iterator[int]:
    """Runs a real gRPC server, and gives its port."""
    command = [sys.executable, str(Path(__file__).with_name("grpc_service.py")), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.close()
