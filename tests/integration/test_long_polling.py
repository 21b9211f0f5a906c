"""Long polling on the lists: whoever has the latest answer waits for the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from builders import announced, deregistered, instance, registered
from http_support import DEADLINE_S, HOST, Answer, Served, eventually, served

from pmoves_mesh.clock import SystemClock

LISTS = ("/api/services", "/api/nodes")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


def index_of(answer: Answer) -> int:
    assert answer.status == 200
    return int(answer.headers["X-Mesh-Index"])


async def poll(mesh: Served, path: str, index: int, wait: str = "60s") -> Answer:
    return await mesh.get(path, params={"index": str(index), "wait": wait})


async def polling(mesh: Served, count: int) -> None:
    async def so_many() -> bool:
        return mesh.facade.readers["polls"]() == count

    await eventually(so_many, f"{count} wait")


@pytest.mark.parametrize("path", LISTS)
async def test_whoever_has_the_latest_answer_waits_for_the_next(mesh: Served, path: str):
    first = index_of(await mesh.get(path))
    assert first >= 1
    wait = asyncio.create_task(poll(mesh, path, first))
    await polling(mesh, 1)
    await mesh.tell(registered(1, instance("whisper", "beta")))
    answer = await asyncio.wait_for(wait, DEADLINE_S)
    assert index_of(answer) > first
    assert answer.body["count"] == 1


@pytest.mark.parametrize("path", LISTS)
async def test_a_wait_ends_when_its_time_is_over(mesh: Served, path: str):
    first = index_of(await mesh.get(path))
    begin_s = SystemClock().monotonic_s()
    assert index_of(await poll(mesh, path, first, "100ms")) == first
    assert 0.1 <= SystemClock().monotonic_s() - begin_s < DEADLINE_S


async def test_a_filtered_list_waits_for_its_own_changes_alone(mesh: Served):
    path = "/api/services?name=whisper&healthy_only=1"
    first = index_of(await mesh.get(path))
    wait = asyncio.create_task(mesh.get(f"{path}&index={first}&wait=60s"))
    await polling(mesh, 1)
    await mesh.tell(registered(1, instance("rag", "beta")), registered(2, instance("whisper", "beta")))
    assert index_of(await mesh.get(path)) == first
    assert not wait.done()
    await mesh.tell(registered(3, instance("whisper", "beta", health_status="healthy")))
    assert index_of(await asyncio.wait_for(wait, DEADLINE_S)) > first


async def test_what_moves_without_news_moves_no_index(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")), announced(2, node="beta"))
    before = [index_of(await mesh.get(path)) for path in LISTS]
    await mesh.tell(registered(3, instance("rag", "beta", health_output="fine")), announced(4, node="beta"))
    await mesh.tell(announced(4, node="beta"))
    assert [index_of(await mesh.get(path)) for path in LISTS] == before


async def test_the_index_of_the_nodes_moves_with_what_a_node_says_of_itself_and_holds(mesh: Served):
    seen = [index_of(await mesh.get("/api/nodes"))]
    for event in (
        announced(1, node="beta"),
        announced(2, node="beta", port=8100),
        registered(3, instance("rag", "beta")),
        deregistered(4, instance("rag", "beta")),
    ):
        await mesh.tell(event)
        seen.append(index_of(await mesh.get("/api/nodes")))
    assert seen == sorted(set(seen))
    await mesh.replica.restore_from_bucket(0, {})
    assert index_of(await mesh.get("/api/nodes")) > seen[-1]


@pytest.mark.parametrize("query", ["index=-1", "index=x", "index=1&wait=soon", "index=1&wait=-5s"])
@pytest.mark.parametrize("path", LISTS)
async def test_an_index_or_a_wait_that_is_none_is_refused(mesh: Served, path: str, query: str):
    answer = await mesh.get(f"{path}?{query}")
    assert answer.status == 422
    assert answer.body["field"] == ("wait" if "wait" in query else "index")


@pytest.mark.parametrize("query", ["index=0&wait=60s", "index=&wait=60s", "wait=60s", "index=7&wait=60s"])
async def test_an_index_that_is_not_the_latest_is_answered_without_waiting(mesh: Served, query: str):
    assert (await asyncio.wait_for(mesh.get(f"/api/services?{query}"), DEADLINE_S)).status == 200


async def test_a_poller_that_goes_away_is_forgotten_at_once(mesh: Served):
    first = index_of(await mesh.get("/api/services"))
    _, writer = await asyncio.open_connection(HOST, mesh.port)
    writer.write(f"GET /api/services?index={first} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await polling(mesh, 1)
    writer.close()
    await polling(mesh, 0)
