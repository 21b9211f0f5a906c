"""Blocking queries: an index stands for one state of one answer, and moves with that alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from pathlib import Path

import pytest
from builders import instance, registered
from http_support import DEADLINE_S, PinnedClock, Served, eventually, served

from pmoves_mesh.core.query import Filter, find
from pmoves_mesh.views.http import blocking
from pmoves_mesh.views.http.blocking import Blocking

LONG_S = 60.0


class Reader:
    """Asks for the health of one service's instances, and counts how often it was looked up."""

    def __init__(self, mesh: Served, queries: Blocking, service: str = "whisper") -> None:
        self.service = service
        self.looked = 0
        self._mesh = mesh
        self._queries = queries

    def fingerprint(self) -> Hashable:
        self.looked += 1
        found = find(self._mesh.replica.registry, Filter(name=self.service))
        return tuple((entry.key, entry.record.health_status) for entry in found)

    async def ask(self, index: int = 0, patience_s: float = LONG_S) -> int:
        return await self._queries.changed(
            ("health", self.service), self.fingerprint, index=index, patience_s=patience_s
        )


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


@pytest.fixture
async def queries(mesh: Served) -> AsyncIterator[Blocking]:
    made = Blocking(mesh.replica, PinnedClock())
    with made.following():
        yield made


async def waiting(queries: Blocking, count: int) -> None:
    async def all_wait() -> bool:
        return queries.waiting == count

    await eventually(all_wait, f"{count} readers wait")


async def test_the_first_question_is_answered_at_once_with_an_index_of_at_least_1(
    mesh: Served, queries: Blocking
):
    assert await Reader(mesh, queries).ask() >= 1


async def test_a_reader_that_waits_is_answered_when_its_own_answer_changes(mesh: Served, queries: Blocking):
    reader, other = Reader(mesh, queries), Reader(mesh, queries, "rag")
    first, first_of_other = await reader.ask(), await other.ask()
    wait, wait_of_other = (
        asyncio.create_task(reader.ask(first)),
        asyncio.create_task(other.ask(first_of_other)),
    )
    await waiting(queries, 2)
    await mesh.tell(registered(1, instance("whisper", "beta")))
    assert await asyncio.wait_for(wait, DEADLINE_S) > first
    assert queries.waiting == 1
    await mesh.tell(registered(2, instance("rag", "beta")))
    assert await asyncio.wait_for(wait_of_other, DEADLINE_S) > first_of_other


async def test_what_changes_nothing_for_a_reader_moves_no_index(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    await mesh.tell(registered(1, instance("whisper", "beta", health_output="fine")))
    first = await reader.ask()
    await mesh.tell(registered(2, instance("rag", "beta")))
    await mesh.tell(registered(3, instance("whisper", "beta", health_output="all is well")))
    assert await reader.ask() == first
    assert await reader.ask(first, patience_s=0.01) == first


async def test_an_index_never_goes_back_even_if_the_answer_does(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    seen = []
    for revision, health in enumerate(("healthy", "unhealthy", "healthy", "unhealthy"), 1):
        await mesh.tell(registered(revision, instance("whisper", "beta", health_status=health)))
        seen.append(await reader.ask())
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("other", [-1, 1])
async def test_an_index_that_is_not_the_latest_is_answered_at_once(
    mesh: Served, queries: Blocking, other: int
):
    reader = Reader(mesh, queries)
    first = await reader.ask()
    assert await asyncio.wait_for(reader.ask(first + other), DEADLINE_S) == first


async def test_an_answer_is_looked_up_once_however_many_wait_for_it(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    first = await reader.ask()
    waits = [asyncio.create_task(reader.ask(first)) for _ in range(100)]
    await waiting(queries, 100)
    before = reader.looked
    await mesh.tell(registered(1, instance("whisper", "beta")))
    indexes = await asyncio.wait_for(asyncio.gather(*waits), DEADLINE_S)
    assert len(set(indexes)) == 1
    assert reader.looked == before + 1


async def test_a_registry_that_takes_another_ones_place_is_looked_at_too(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    await mesh.tell(registered(1, instance("whisper", "beta")))
    first = await reader.ask()
    wait = asyncio.create_task(reader.ask(first))
    await waiting(queries, 1)
    await mesh.replica.restore_from_bucket(0, {})
    assert await asyncio.wait_for(wait, DEADLINE_S) > first


async def test_whoever_waits_is_answered_when_the_server_ends(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    first = await reader.ask()
    waits = [asyncio.create_task(reader.ask(first)) for _ in range(3)]
    await waiting(queries, 3)
    queries.end()
    assert await asyncio.wait_for(asyncio.gather(*waits), DEADLINE_S) == [first] * 3
    assert await asyncio.wait_for(reader.ask(first), DEADLINE_S) == first


async def test_a_reader_that_goes_away_is_forgotten(mesh: Served, queries: Blocking):
    reader = Reader(mesh, queries)
    wait = asyncio.create_task(reader.ask(await reader.ask()))
    await waiting(queries, 1)
    wait.cancel()
    await asyncio.wait((wait,))
    assert queries.waiting == 0


async def test_answers_that_nobody_asks_for_are_forgotten_beyond_a_bound(
    mesh: Served, queries: Blocking, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blocking, "_IDLE_MAX", 2)
    first = await Reader(mesh, queries, "a").ask()
    for service in ("b", "c"):
        await Reader(mesh, queries, service).ask()
    assert await Reader(mesh, queries, "c").ask() > first
    assert await Reader(mesh, queries, "a").ask() > first
