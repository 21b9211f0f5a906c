"""A reader of server-sent events for tests, over any client that yields lines.

Source: WHATWG HTML, section 9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from http_support import DEADLINE_S, HOST

LINE_BYTES_MAX = 2**24


@dataclass(frozen=True)
class Heard:
    """One event."""

    name: str
    position: int
    data: Any

    @property
    def key(self) -> tuple[str, str, str]:
        return self.data["name"], self.data["node"], self.data["id"]


@dataclass
class Reader:
    """Takes one event after another, and keeps the comments and the delay that came between."""

    response: aiohttp.ClientResponse
    comments: list[str] = field(default_factory=list)
    retry_ms: int | None = None

    async def next(self) -> Heard:
        """Returns the next event; raises EOFError if there will be none."""
        fields: dict[str, str] = {}
        while True:
            line = (
                await asyncio.wait_for(
                    self.response.content.readline(max_line_length=LINE_BYTES_MAX), DEADLINE_S
                )
            ).decode()
            if not line:
                raise EOFError
            name, _, value = line.rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if line == "\n":
                if "data" in fields:
                    return Heard(fields["event"], int(fields["id"]), json.loads(fields["data"]))
                fields = {}
            elif not name:
                self.comments.append(value)
            elif name == "retry":
                self.retry_ms = int(value)
            else:
                fields[name] = value

    async def names(self, count: int) -> list[tuple[str, str]]:
        """Returns what happened to which services in the next events."""
        return [(one.name, one.data["name"]) for one in [await self.next() for _ in range(count)]]

    async def rest(self) -> list[Heard]:
        """Returns every event up to the end."""
        heard = []
        while True:
            try:
                heard.append(await self.next())
            except EOFError:
                return heard


@asynccontextmanager
async def watching(
    port: int, query: str = "", *, after: int | None = None, read_bufsize: int = 2**16
) -> AsyncIterator[Reader]:
    """Watches the registry of an agent on this host, from a position on if one is given."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    url = f"http://{HOST}:{port}/api/watch{query}"
    async with (
        aiohttp.ClientSession(read_bufsize=read_bufsize) as session,
        session.get(url, headers=headers, timeout=aiohttp.ClientTimeout()) as response,
    ):
        yield Reader(response)
