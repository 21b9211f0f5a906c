"""The SDK against real agents: found, checked and removed with one line, and answered from memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import ROOT, AgentProcess, mesh_in, note
from agents import Mesh as Place
from http_support import own_address
from ports import free_port

from pmoves_mesh import Change, Mesh
from pmoves_mesh.config import Config, load
from pmoves_mesh.errors import InvalidFieldError, NothingKnownError, ServiceNotFound, WriteRefusedError

SOON_S = 15.0
WORKER = """
import asyncio, sys
from pmoves_mesh import Mesh

async def main():
    check = {"type": "ttl", "ttl_s": 1, "remove_after_s": 1}
    async with Mesh.connect() as mesh, mesh.register("worker", capabilities=["work"], check=check):
        print("registered", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as place:
        place.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))
        place.started("beta")
        yield place


@pytest.fixture
def alpha(place: Place) -> AgentProcess:
    return place.agents["alpha"]


@pytest.fixture
def beta(place: Place) -> AgentProcess:
    return place.agents["beta"]


def config_of(agent: AgentProcess, **settings: str) -> Config:
    """Returns the settings of a program on an agent's host."""
    return load({**agent.environment, "SERVICE_REGISTRY_URL": agent.url, **settings}, agent.directory)


@asynccontextmanager
async def mesh_of(agent: AgentProcess, **settings: str) -> AsyncIterator[Mesh]:
    async with Mesh.connect(config=config_of(agent, **settings)) as mesh:
        yield mesh


async def soon(condition: Callable[[], Any], what: str) -> None:
    """Waits for what this program's own loop has to bring about."""
    try:
        async with asyncio.timeout(SOON_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {SOON_S:g} s: {what}")


def knows(mesh: Mesh, name: str) -> bool:
    try:
        mesh.resolve(name)
    except (ServiceNotFound, NothingKnownError):
        return False
    return True


def listed(agent: AgentProcess, name: str) -> list[tuple[str, str]]:
    """Returns id and health of each instance that an agent lists."""
    found = agent.get("/api/services", name=name).body["services"]
    return [(one["id"], one["health_status"]) for one in found]


async def test_what_one_program_registers_another_finds_until_it_leaves(
    alpha: AgentProcess, beta: AgentProcess
):
    async with mesh_of(alpha) as here, mesh_of(beta) as there:
        assert (here.node, there.node, here.problem) == ("alpha", "beta", "")
        async with here.register("whisper", port=9000, capabilities=["stt"], weight=2) as registered:
            assert registered.instance is not None
            assert registered.problem == ""
            await soon(lambda: knows(there, "whisper"), "the other program knows it")
            found = there.resolve("whisper")
            assert (found.node, found.port, found.weight, found.verified) == ("alpha", 9000, 2.0, True)
            assert found.url("/healthz") == "http://127.0.0.1:9000/healthz"
            assert [one.key for one in await there.discover("stt")] == [found.key]
            assert await there.discover("stt", "gpu") == []
            await soon(lambda: there.resolve("whisper").health_status == "healthy", "it has reported")
        await soon(lambda: not knows(there, "whisper"), "it has left")
        assert listed(alpha, "whisper") == []


async def test_copies_without_a_port_are_told_apart(alpha: AgentProcess):
    async with mesh_of(alpha) as mesh, mesh.register("copy"), mesh.register("copy"):
        await soon(lambda: len(listed(alpha, "copy")) == 2, "both are registered")
        assert len({name for name, _ in listed(alpha, "copy")}) == 2
        with pytest.raises(ServiceNotFound):
            mesh.resolve("copy")


async def test_a_program_that_is_killed_turns_unhealthy_and_is_gone(alpha: AgentProcess):
    environment = {**alpha.environment, "SERVICE_REGISTRY_URL": alpha.url}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env=environment,
        cwd=alpha.directory,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    with worker.stdout:
        assert await asyncio.to_thread(worker.stdout.readline) == "registered\n"
        await soon(lambda: [health for _, health in listed(alpha, "worker")] == ["healthy"], "healthy")
        worker.send_signal(signal.SIGKILL)
        begin = time.perf_counter()
        worker.wait()
    await soon(lambda: [health for _, health in listed(alpha, "worker")] == ["unhealthy"], "unhealthy")
    await soon(lambda: listed(alpha, "worker") == [], "gone")
    note(
        f"after kill -9, with a TTL of 1 s and removal after 1 s: gone in {time.perf_counter() - begin:.1f} s"
    )


async def test_it_answers_from_memory_while_the_agent_is_away_and_registers_again_when_that_forgot(
    alpha: AgentProcess,
):
    alpha.register("old", host="10.0.0.9", port=1)
    async with (
        mesh_of(alpha) as mesh,
        mesh.register("keeper", port=7001) as kept,
        mesh.register("checked", port=7002, health_url="http://127.0.0.1:7002/healthz"),
    ):
        await soon(lambda: knows(mesh, "old") and knows(mesh, "keeper"), "known")
        await asyncio.to_thread(alpha.kill)
        await soon(lambda: mesh.problem != "" and kept.problem != "", "it sees that the agent is away")
        assert mesh.resolve("old").address == "10.0.0.9:1"
        shutil.rmtree(alpha.data_dir)
        await asyncio.to_thread(alpha.restart)
        await soon(lambda: mesh.problem == "" and kept.problem == "", "it follows again")
        await soon(lambda: listed(alpha, "keeper") == [("7001", "healthy")], "registered again")
        await soon(lambda: [name for name, _ in listed(alpha, "checked")] == ["7002"], "that one too")
    assert listed(alpha, "keeper") == []


async def test_a_program_may_start_before_its_agent(tmp_path: Path, place: Place):
    agent = AgentProcess(tmp_path, "early", place.server.url, SERVICE_REGISTRY_PORT=str(free_port()))
    agent.url = f"http://127.0.0.1:{agent.environment['SERVICE_REGISTRY_PORT']}"
    shutil.copytree(place.directory / "tls", agent.tls_dir)
    async with mesh_of(agent) as mesh, mesh.register("first", port=7003) as registered:
        assert registered.instance is None
        assert "no agent answers at" in registered.problem
        with pytest.raises(NothingKnownError):
            mesh.resolve("first")
        await asyncio.to_thread(agent.start)
        await soon(lambda: registered.problem == "", "registered")
        await soon(lambda: knows(mesh, "first"), "found")
    agent.kill()


async def test_a_program_that_somebody_deregistered_is_back_with_its_next_report(alpha: AgentProcess):
    check = {"type": "ttl", "ttl_s": 1}
    async with mesh_of(alpha) as mesh, mesh.register("stubborn", port=7005, check=check) as registered:
        await soon(lambda: listed(alpha, "stubborn"), "registered")
        changes = mesh.watch("stubborn")
        while (await anext(changes)).instance.health_status != "healthy":
            pass
        assert alpha.delete("/api/services/stubborn").status == 200
        assert (await anext(changes)).kind == "removed"
        assert (await anext(changes)).kind == "added"
        await changes.aclose()
        assert registered.problem == ""


async def test_the_agent_checks_a_health_url_and_the_program_need_say_nothing(alpha: AgentProcess):
    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(well, "127.0.0.1", 0) as server, mesh_of(alpha) as mesh:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/healthz"
        async with mesh.register("checked-one", port=port, health_url=url) as registered:
            await soon(lambda: listed(alpha, "checked-one") == [(str(port), "healthy")], "healthy")
            with pytest.raises(InvalidFieldError, match="the agent that checks"):
                await registered.unhealthy("no")


async def test_a_program_that_says_it_is_not_well_is_found_no_more_until_it_is(alpha: AgentProcess):
    async with mesh_of(alpha) as mesh, mesh.register("loader", port=7004, capabilities=["load"]) as loader:
        await soon(lambda: listed(alpha, "loader") == [("7004", "healthy")], "healthy")
        await loader.unhealthy("the model is loading")
        await soon(lambda: mesh.resolve("loader").health_output == "the model is loading", "told")
        assert await mesh.discover("load") == []
        await loader.healthy()
        await soon(lambda: mesh.resolve("loader").health_status == "healthy", "well again")


async def test_a_watch_tells_of_all_and_of_what_comes_and_goes(alpha: AgentProcess, beta: AgentProcess):
    beta.register("watched", id="a", host="127.0.0.1", port=1)
    async with mesh_of(alpha) as mesh:
        await soon(lambda: knows(mesh, "watched"), "known")
        changes = mesh.watch("watched")
        seen: list[Change] = [await anext(changes)]
        beta.register("watched", id="b", host="127.0.0.1", port=2)
        seen.append(await anext(changes))
        beta.delete("/api/services/watched", id="a")
        seen.append(await anext(changes))
        await changes.aclose()
    assert [(one.kind, one.key.id) for one in seen] == [("added", "a"), ("added", "b"), ("removed", "a")]


async def test_a_call_that_fails_sends_the_next_one_elsewhere(alpha: AgentProcess, beta: AgentProcess):
    alpha.register("twin", host="127.0.0.1", port=1)
    beta.register("twin", host="127.0.0.1", port=2)
    async with mesh_of(alpha) as mesh:
        await soon(lambda: len(list(mesh._directory.of_service("twin"))) == 2, "both are known")
        assert mesh.resolve("twin").node == "alpha", "the own node comes first"
        with pytest.raises(ConnectionRefusedError), mesh.using("twin"):
            raise ConnectionRefusedError
        assert mesh.resolve("twin").node == "beta"


async def test_messages_go_as_they_are_to_whoever_listens(alpha: AgentProcess):
    async with (
        mesh_of(alpha) as mesh,
        mesh_of(alpha, SERVICE_REGISTRY_URL=alpha.url) as other,
    ):
        heard = mesh.subscribe("ingest.*.v1")
        waiting = asyncio.ensure_future(anext(heard))

        async def speak() -> None:
            while not waiting.done():
                await other.publish("ingest.video.v1", {"topic": "video", "ts": "2026-01-01T00:00:00+00:00Z"})
                await asyncio.sleep(0.05)

        async with asyncio.timeout(SOON_S):
            await speak()
        message = await waiting
        assert message.subject == "ingest.video.v1"
        assert message.payload == b'{"topic":"video","ts":"2026-01-01T00:00:00+00:00Z"}'
        assert message.json()["topic"] == "video"
        await heard.aclose()


@pytest.mark.parametrize(
    "subject", ["mesh.node.announce.v1", "service.registry.registered", "$KV.X", "a.*", "a..b", "a b", ""]
)
async def test_nothing_is_published_where_only_agents_speak(alpha: AgentProcess, subject: str):
    async with mesh_of(alpha) as mesh:
        with pytest.raises(InvalidFieldError, match="subject"):
            await mesh.publish(subject, b"")


async def test_what_the_agent_refuses_is_raised_with_its_words(alpha: AgentProcess):
    async with mesh_of(alpha) as mesh:
        with pytest.raises(InvalidFieldError, match="not one DNS label") as refused:
            async with mesh.register("not a name", port=1):
                pass
        assert refused.value.field == "name"


async def test_from_another_host_the_token_lets_a_program_register(place: Place):
    address = own_address()
    gamma = place.agent(
        "gamma", SERVICE_REGISTRY_HOST="0.0.0.0", PMOVES_INSECURE_HTTP="1", SERVICE_REGISTRY_TOKEN="hush"
    )
    gamma.start().ready()
    gamma.url = gamma.url.replace("0.0.0.0", address)
    async with mesh_of(gamma, SERVICE_REGISTRY_TOKEN="") as mesh:
        with pytest.raises(WriteRefusedError) as refused:
            async with mesh.register("remote", port=1):
                pass
        assert refused.value.token_helps
    async with mesh_of(gamma) as mesh, mesh.register("remote", port=1) as registered:
        assert registered.instance is not None


async def test_over_tls_a_program_shows_the_hosts_certificate_and_needs_no_token(place: Place):
    delta = place.agent("delta", SERVICE_REGISTRY_HOST=own_address())
    delta.start()
    port = delta.url.rpartition(":")[2]
    config = load({**delta.environment, "SERVICE_REGISTRY_PORT": port}, delta.directory)
    async with Mesh.connect(config=config) as mesh:
        await soon(lambda: mesh.problem == "", "followed over TLS")
        async with mesh.register("sealed", port=7010) as registered:
            assert registered.instance is not None
            await soon(lambda: knows(mesh, "sealed"), "found")
    delta.kill()


async def test_what_the_programs_own_code_raises_is_raised_as_it_is(alpha: AgentProcess):
    with pytest.raises(ZeroDivisionError):
        async with mesh_of(alpha) as mesh, mesh.register("clumsy", port=7011):
            raise ZeroDivisionError
    assert listed(alpha, "clumsy") == []


async def test_a_mesh_that_was_not_entered_says_so(alpha: AgentProcess):
    mesh = Mesh.connect(config=config_of(alpha))
    with pytest.raises(RuntimeError, match="enter the mesh first"):
        await mesh.publish("a", b"")


def test_importing_the_package_imports_none_of_what_the_sdk_needs():
    code = "import sys, pmoves_mesh; print({'aiohttp', 'nats', 'msgspec', 'typing'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
