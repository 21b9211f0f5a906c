"""Containers of which an engine says something odd, or nothing at all: an engine as it is told to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from pmoves_mesh.agent.containers.engine import CONTAINER_BYTES_MAX, Engine
from pmoves_mesh.agent.containers.follower import Follower
from pmoves_mesh.agent.containers.inspected import Container
from pmoves_mesh.agent.containers.labels import NAME_LABEL
from pmoves_mesh.agent.containers.tally import Tally
from pmoves_mesh.clock import SystemClock

Answer = Callable[[], web.Response]


def told(container: str) -> dict[str, Any]:
    labels = {NAME_LABEL: container}
    return {"Id": container, "Config": {"Labels": labels}, "State": {"Running": True, "Status": "running"}}


ODD: Final[dict[str, Answer]] = {
    "broken": lambda: web.json_response({"message": "layer does not exist"}, status=500),
    "endless": lambda: web.json_response({**told("endless"), "Args": ["x" * 2 * CONTAINER_BYTES_MAX]}),
    "foreign": lambda: web.json_response({**told("foreign"), "Config": {"Labels": ["a list"]}}),
    "garbled": lambda: web.Response(body=b"\xff{"),
}


class SmallEngine:
    """Lists some containers, and tells of each what it is asked to."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.followed = 0

    async def listed(self, _request: web.Request) -> web.Response:
        return web.json_response([{"Id": container} for container in self.answers])

    async def inspected(self, request: web.Request) -> web.Response:
        answer = self.answers.get(request.match_info["id"])
        return web.Response(status=404) if answer is None else answer()

    async def followed_by(self, request: web.Request) -> web.StreamResponse:
        self.followed += 1
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(await self.events.get())
        return response

    async def listen(self, path: Path) -> web.AppRunner:
        application = web.Application()
        application.router.add_get("/containers/json", self.listed)
        application.router.add_get("/containers/{id}/json", self.inspected)
        application.router.add_get("/events", self.followed_by)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        return runner


class Keeping:
    """Takes note of what is seen, in the place of what registers it."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.settled = 0

    def see(self, container: Container, _network: Container) -> None:
        self.containers[container.id] = container

    def miss(self, container: str) -> None:
        self.containers.pop(container, None)

    def miss_all_but(self, containers: frozenset[str]) -> None:
        for gone in self.containers.keys() - containers:
            del self.containers[gone]

    def sharing(self, _container: Container) -> list[Container]:
        return []

    async def settle(self) -> None:
        self.settled += 1

    async def release_unseen(self, _away_s: float) -> None:
        """Nothing is registered here."""


class Following:
    """A follower of a small engine, under way."""

    def __init__(self, engine: SmallEngine, keeper: Keeping, tally: Tally) -> None:
        self.engine, self.keeper, self.tally = engine, keeper, tally

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.005)


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Following]:
    small, keeper, tally = SmallEngine(), Keeping(), Tally(CollectorRegistry())
    small.answers = {name: lambda name=name: web.json_response(told(name)) for name in ("one", "two")}
    runner = await small.listen(tmp_path / "engine.sock")
    async with Engine((tmp_path / "engine.sock",)) as engine:
        follower = Follower(engine, keeper, tally, SystemClock(), resync_s=0.2)  # type: ignore[arg-type]
        running = asyncio.create_task(follower.run())
        yield Following(small, keeper, tally)
        running.cancel()
        await asyncio.wait((running,))
    await runner.cleanup()


@pytest.mark.parametrize("odd", ODD)
async def test_a_container_of_which_nothing_is_told_costs_itself_alone(following: Following, odd: str):
    with capture_logs() as lines:
        following.engine.answers = {odd: ODD[odd], **following.engine.answers}
        await following.until(lambda: following.keeper.containers.keys() == {"one", "two"})
        settled = following.keeper.settled
        await following.until(lambda: following.keeper.settled > settled + 2)
    assert following.engine.followed == 1
    assert [line["container"] for line in lines if line["event"] == "container not read"] == [odd]
    assert [odd in warning for warning in following.tally.warnings()] == [True]


async def test_what_was_seen_of_a_container_holds_while_nothing_is_told_of_it(following: Following):
    await following.until(lambda: following.keeper.containers.keys() == {"one", "two"})
    answer, following.engine.answers["one"] = following.engine.answers["one"], ODD["broken"]
    await following.engine.events.put(b'{"Action":"restart","Actor":{"ID":"one"}}\n')
    await following.until(lambda: bool(following.tally.warnings()))
    assert following.keeper.containers.keys() == {"one", "two"}
    following.engine.answers["one"] = answer
    following.engine.answers["three"] = lambda: web.json_response(told("three"))
    await following.until(lambda: "three" in following.keeper.containers)
    assert following.engine.followed == 1


async def test_a_container_that_ends_unheard_is_missed_when_all_are_asked_again(following: Following):
    await following.until(lambda: following.keeper.containers.keys() == {"one", "two"})
    del following.engine.answers["one"]
    await following.until(lambda: following.keeper.containers.keys() == {"two"})
    assert following.engine.followed == 1
