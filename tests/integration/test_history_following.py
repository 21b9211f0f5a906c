"""Following the events over HTTP: whoever does not take them is dropped, and outages are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from http_support import HOST, served

from pmoves_mesh.core.history import EventsFollowed, HistoryBusyError, Question, Told
from pmoves_mesh.errors import LogUnavailable, MeshError
from pmoves_mesh.views.http import following
from pmoves_mesh.views.http.app import serving

HEADERS = {"Accept": "text/event-stream"}
LARGE = b'"' + b"x" * 100_000 + b'"'


class Endless:
    """Tells of events for as long as somebody takes them.

    Attributes:
        left: set once nobody does any more.
    """

    def __init__(self, error: MeshError | None = None, *, first: bool = False) -> None:
        self.left = asyncio.Event()
        self.wanted: EventsFollowed | None = None
        self._error = error
        self._first = first

    async def ask(self, question: Question) -> Told:
        raise NotImplementedError

    async def follow(self, wanted: EventsFollowed) -> AsyncGenerator[Sequence[Told], None]:
        self.wanted = wanted
        try:
            if self._error is not None and self._first:
                raise self._error
            yield []
            for position in range(1, 10_000):
                yield [Told(body=LARGE, position=position)]
                if self._error is not None:
                    raise self._error
        finally:
            self.left.set()


@asynccontextmanager
async def telling(directory: Path, historian: Endless) -> AsyncIterator[str]:
    async with (
        served(directory) as mesh,
        serving(replace(mesh.facade, historian=historian), HOST, 0) as port,
    ):
        yield f"http://{HOST}:{port}/api/events"


async def test_a_reader_that_takes_nothing_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "_BEHIND_S", 0.2)
    historian = Endless()
    async with telling(tmp_path, historian) as url:
        _, port = url.rsplit("/", 2)[0].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(HOST, int(port), limit=1024)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(10):
            await historian.left.wait()
        writer.close()


async def test_a_reader_that_leaves_is_let_go(tmp_path: Path):
    historian = Endless()
    async with telling(tmp_path, historian) as url, aiohttp.ClientSession() as session:
        async with session.get(url, headers=HEADERS) as response:
            assert response.status == 200
            await response.content.readany()
        async with asyncio.timeout(10):
            await historian.left.wait()


async def test_an_outage_ends_the_stream_with_a_word(tmp_path: Path):
    historian = Endless(LogUnavailable("NATS is away"))
    async with (
        telling(tmp_path, historian) as url,
        aiohttp.ClientSession() as session,
        session.get(url, headers=HEADERS) as response,
    ):
        told = await response.text()
    assert "event: event\nid: 1\n" in told
    assert told.endswith('data: {"reason":"away"}\n\n')


@pytest.mark.parametrize("error", [LogUnavailable("NATS is away"), HistoryBusyError("readers", 1)])
async def test_whoever_cannot_follow_at_all_gets_a_problem(tmp_path: Path, error: MeshError):
    historian = Endless(error, first=True)
    async with (
        telling(tmp_path, historian) as url,
        aiohttp.ClientSession() as session,
        session.get(url, headers=HEADERS) as response,
    ):
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json(content_type=None))["detail"] == str(error)


async def test_what_it_was_told_last_counts_before_what_it_asks_for(tmp_path: Path):
    historian = Endless()
    async with telling(tmp_path, historian) as url, aiohttp.ClientSession() as session:
        for headers, after in (({"Last-Event-ID": "7"}, 7), ({"Last-Event-ID": "nonsense"}, 3), ({}, 3)):
            async with session.get(f"{url}?after=3", headers={**HEADERS, **headers}) as response:
                assert response.status == 200
            assert historian.wanted is not None
            assert historian.wanted.after == after


async def test_an_agent_that_keeps_no_past_says_so(tmp_path: Path):
    async with served(tmp_path) as mesh:
        for path in ("/api/events", "/api/diff?from=1", "/api/services?at=1", "/api/nodes?at=1"):
            assert (await mesh.get(path)).status == 404
