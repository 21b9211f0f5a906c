"""Engines that are not Docker's newest: other words, late answers, none at all, and files that went bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from http_support import PinnedClock, Served, eventually, served
from prometheus_client import CollectorRegistry

from pmoves_mesh.agent.containers.claims import Claims
from pmoves_mesh.agent.containers.engine import Engine
from pmoves_mesh.agent.containers.follower import Follower
from pmoves_mesh.agent.containers.keeper import Keeper
from pmoves_mesh.agent.containers.tally import Tally
from pmoves_mesh.core.registration import Registration

ID = "4f1c" * 16


class StubEngine:
    """An engine that speaks as Podman does: no head of an answer before its first event, and fewer words.

    Attributes:
        containers: by id, as `GET /containers/{id}/json` shows them.
        silent: set while it takes questions and answers none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[str, dict[str, Any]] = {}
        self.silent = False
        self.asked = 0
        self._events: list[asyncio.Queue[bytes]] = []

    def put(
        self, name: str = "web", status: str = "running", health: str = "", pid: int = 0, **labels: str
    ) -> None:
        self.containers[ID] = {
            "Id": ID,
            "Name": name,
            "State": {
                "Status": status,
                "Running": status != "exited",
                "Pid": pid,
                "Health": {"Status": health},
            },
            "Config": {"Image": "web:1", "Labels": {"pmoves.mesh.name": "web", **labels}},
            "HostConfig": {"NetworkMode": "slirp4netns"},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
        }

    async def tell(self, action: str) -> None:
        """Sends an event as Podman words it, without labels, once somebody listens."""

        async def heard() -> bool:
            return bool(self._events)

        await eventually(heard, "somebody listens")
        line = {
            "status": action,
            "Type": "container",
            "Action": action,
            "Actor": {"ID": ID, "Attributes": {}},
        }
        for queue in self._events:
            queue.put_nowait(msgspec.json.encode(line) + b"\n")

    def end_events(self) -> None:
        for queue in self._events:
            queue.put_nowait(b"")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/containers/json", self._list)
        app.router.add_get("/containers/{id}/json", self._inspect)
        app.router.add_get("/events", self._follow)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        try:
            yield
        finally:
            self.end_events()
            await runner.cleanup()
            self.path.unlink(missing_ok=True)

    async def _list(self, request: web.Request) -> web.Response:
        await self._wait()
        assert msgspec.json.decode(request.query["filters"]) == {"label": ["pmoves.mesh.name"]}
        return web.json_response(
            [{"Id": one["Id"]} for one in self.containers.values() if one["State"]["Running"]]
        )

    async def _inspect(self, request: web.Request) -> web.Response:
        await self._wait()
        self.asked += 1
        found = self.containers.get(request.match_info["id"])
        return web.json_response(found or {"cause": "no such container"}, status=200 if found else 404)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._events.append(queue)
        response = web.StreamResponse()
        try:
            while line := await queue.get():
                if not response.prepared:
                    await response.prepare(request)
                await response.write(line)
        finally:
            self._events.remove(queue)
        return response

    async def _wait(self) -> None:
        while self.silent:
            await asyncio.sleep(0.01)


class QuickClock(PinnedClock):
    """A clock on which an hour of waiting for an engine is a moment; nobody else waits by it."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.slept_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        await asyncio.sleep(0.01)


class Followed:
    """A node that follows a stub engine."""

    def __init__(self, node: Served, engine: StubEngine, tally: Tally, clock: QuickClock) -> None:
        self.node = node
        self.clock = clock
        self.engine = engine
        self.tally = tally

    @property
    def found(self) -> dict[str, tuple[int, str]]:
        """The port and the health of every instance, by its id."""
        held = self.node.registrations.held.values()
        return {one.record.id: (one.record.port, one.record.health_status) for one in held}

    async def becomes(self, found: dict[str, tuple[int, str]]) -> None:
        async def same() -> bool:
            return self.found == found

        await eventually(same, f"{found}; it is {self.found}")


@asynccontextmanager
async def following(directory: Path, *, resync_s: float = 60.0) -> AsyncIterator[Followed]:
    """A node `alpha` whose engine is a stub that does not listen yet."""
    async with served(directory) as node:
        stub, tally, clock = StubEngine(directory / "engine.sock"), Tally(CollectorRegistry()), QuickClock()
        claims = Claims(directory / "containers.json")
        node.registrations.restore(await node.store.registrations())
        await claims.load(held.record for held in node.registrations.held.values())
        keeper = Keeper("alpha", "docked", node.registrations, claims, tally)
        async with Engine((directory / "absent.sock", stub.path)) as engine, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(Follower(engine, keeper, tally, clock, resync_s=resync_s).run())
            try:
                yield Followed(node, stub, tally, clock)
            finally:
                task.cancel()


async def test_podmans_words_are_understood(tmp_path: Path):
    async with following(tmp_path) as here, here.engine.listening():
        here.engine.put()
        await here.becomes({})
        await here.engine.tell("start")
        await here.becomes({"web": (8080, "healthy")})
        here.engine.put(health="unhealthy")
        await here.engine.tell("health_status")
        await here.becomes({"web": (8080, "unhealthy")})
        here.engine.put(name="renamed", health="starting")
        await here.engine.tell("rename")
        await here.becomes({"renamed": (8080, "unknown")})
        here.engine.put(name="renamed", status="exited")
        await here.engine.tell("died")
        await here.becomes({})
        del here.engine.containers[ID]
        await here.engine.tell("remove")
        assert not here.tally.warnings()


async def test_health_checks_of_strangers_are_not_asked_about(tmp_path: Path):
    async with following(tmp_path) as here, here.engine.listening():
        await here.becomes({})
        await here.engine.tell("start")

        async def asked() -> bool:
            return here.engine.asked > 0

        await eventually(asked, "it looks")
        before = here.engine.asked
        for _ in range(3):
            await here.engine.tell("health_status")
            await here.engine.tell("exec_create: /bin/check")
        here.engine.put()
        await here.engine.tell("start")
        await here.becomes({"web": (8080, "healthy")})
        assert here.engine.asked == before + 1


async def test_what_no_event_told_of_is_seen_when_all_are_asked(tmp_path: Path):
    async with following(tmp_path, resync_s=0.05) as here, here.engine.listening():
        here.engine.put()
        await here.becomes({"web": (8080, "healthy")})
        await here.node.registrations.deregister("web", wait=False)
        await here.becomes({"web": (8080, "healthy")})
        await here.node.registrations.register(Registration(name="web", id="web", port=1), wait=False)
        await here.becomes({"web": (8080, "healthy")})
        here.engine.containers.clear()
        await here.becomes({})


async def test_an_engine_that_ends_its_events_is_asked_anew(tmp_path: Path):
    async with following(tmp_path) as here, here.engine.listening():
        here.engine.put()
        await here.engine.tell("start")
        await here.becomes({"web": (8080, "healthy")})
        here.engine.containers.clear()
        here.engine.end_events()
        await here.becomes({})


async def test_an_engine_that_gives_no_answer_is_said_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.agent.containers.follower._ANSWER_S", 0.05)
    async with following(tmp_path) as here:
        here.engine.silent = True
        async with here.engine.listening():

            async def said() -> bool:
                return any("gives no answer within" in line for line in here.tally.warnings())

            await eventually(said, "it is said")
            here.engine.silent = False
            here.engine.put()
            await here.becomes({"web": (8080, "healthy")})
            assert not here.tally.warnings()


async def test_what_nobody_knows_of_leaves_after_its_time_and_what_is_known_to_be_well_stays(tmp_path: Path):
    async with following(tmp_path) as here:
        async with here.engine.listening():
            here.engine.put(health="starting")
            await here.becomes({"web": (8080, "unknown")})
        await here.becomes({})
        async with here.engine.listening():
            here.engine.put(health="healthy", **{"pmoves.mesh.deregister_after": "1"})
            await here.becomes({"web": (8080, "healthy")})
        begin_s = here.clock.slept_s

        async def long_after() -> bool:
            return here.clock.slept_s > begin_s + 3600

        await eventually(long_after, "an hour passes")
        assert here.found == {"web": (8080, "healthy")}


async def test_what_ended_with_its_engine_leaves_at_once_and_what_runs_on_without_it_stays(tmp_path: Path):
    process = await asyncio.create_subprocess_exec("sleep", "60")
    async with following(tmp_path) as here:
        async with here.engine.listening():
            here.engine.put(pid=process.pid)
            await here.becomes({"web": (8080, "healthy")})
        begin_s = here.clock.slept_s

        async def asked_again() -> bool:
            return here.clock.slept_s > begin_s + 60

        await eventually(asked_again, "the engine is asked again")
        assert here.found == {"web": (8080, "healthy")}
        process.kill()
        await process.wait()
        await here.becomes({})


async def test_a_list_that_was_damaged_is_made_up_from_what_the_records_say(tmp_path: Path):
    async with following(tmp_path) as here, here.engine.listening():
        here.engine.put()
        await here.becomes({"web": (8080, "healthy")})
    (tmp_path / "containers.json").write_bytes(b"[[")
    async with following(tmp_path) as here:
        await here.node.registrations.register(Registration(name="other", id="one", port=1), wait=False)
        async with here.engine.listening():
            await here.becomes({"one": (1, "unknown")})
