"""Meshes that hold as many instances as one asks for: one agent registered them, another is measured."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

import msgspec

from benchmarks.agents import Agent, Server, mesh
from benchmarks.processes import resident_bytes, seconds_until
from benchmarks.size import Size
from benchmarks.wrk import post

MATCH = 20
CLIENTS = 64
_SETTLED_S = 120.0


class Filled(NamedTuple):
    """A mesh that holds so many instances.

    Attributes:
        writer: the agent where they were registered, and on which others may be.
        reader: the agent that knows of them from the mesh.
        empty_bytes: the memory of the reader before it knew of any.
        full_bytes: its memory once it knew of all.
    """

    instances: int
    server: Server
    writer: Agent
    reader: Agent
    empty_bytes: int
    full_bytes: int

    @property
    def groups(self) -> int:
        """How many groups of instances have two capabilities in common."""
        return max(1, self.instances // MATCH)


class Stand:
    """Where benchmarks are made: how large they are, folders, and meshes that several of them ask."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._stack = ExitStack()
        self._filled: dict[int, Filled] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def folder(self) -> Path:
        """Returns a folder of its own, which lasts until the stand is cleared."""
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="bench-")))

    def filled(self, instances: int) -> Filled:
        """Returns a mesh of so many instances, which lasts until the stand is cleared."""
        if instances not in self._filled:
            self._filled[instances] = self._stack.enter_context(filled(self.folder(), instances))
        return self._filled[instances]

    def clear(self) -> None:
        """Ends whatever runs, so that nothing is beside what is measured next."""
        self._filled.clear()
        self._stack.close()


@contextmanager
def filled(folder: Path, instances: int) -> Iterator[Filled]:
    """Runs a mesh of so many instances while the context lasts."""
    with mesh(folder, "writer", "reader") as (server, (writer, reader)):
        writer.ask("DELETE", "/api/services/of-writer")  # a node holds 100,000 at most
        empty = resident_bytes(reader.pid)
        fill(writer, (record(number, instances) for number in range(instances)))
        seconds_until(lambda: reader.knows(f"service-{instances - 1}"), _SETTLED_S)
        yield Filled(instances, server, writer, reader, empty, resident_bytes(reader.pid))


def record(number: int, instances: int) -> dict[str, object]:
    """Returns what is registered as the instance of this number, of so many."""
    group = f"group-{number % max(1, instances // MATCH)}"
    return {
        "name": f"service-{number}",
        "host": "10.1.2.3",
        "port": 8000 + number % 1000,
        "capabilities": [group, f"kind-{number % 40}", "all"],
        "metadata": {"version": "1.2.3", "zone": "rack-7"},
    }


def fill(agent: Agent, records: Iterable[dict[str, object]]) -> None:
    """Registers all of them, by many clients at once."""
    ask_all(agent.port, (post("/api/services", msgspec.json.encode(one)) for one in records))


def ask_all(port: int, requests: Iterable[bytes]) -> None:
    """Sends requests by many clients at once, each after the answer to its last.

    Raises:
        ExceptionGroup: if one of the answers is no success.
    """
    asyncio.run(_ask_all(port, iter(requests)))


async def _ask_all(port: int, requests: Iterator[bytes]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(_client(port, requests))


async def _client(port: int, requests: Iterator[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(body.decode())
    finally:
        writer.close()


@contextmanager
def changing(writer: Agent, per_second: float) -> Iterator[None]:
    """Changes a service of an agent so many times a second while the context lasts."""
    ended = threading.Event()

    def change() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", writer.port, timeout=10)
        for number in itertools.count():
            if ended.wait(1 / per_second):
                break
            body = {"name": "changing", "host": "10.1.2.3", "port": 1, "metadata": {"number": number}}
            connection.request("POST", "/api/services?wait=none", msgspec.json.encode(body))
            connection.getresponse().read()
        connection.close()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
