"""The process that tells of the past: it comes when it is asked, and nothing of it is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, eventually, mesh_in
from history_support import desk_of, following

from pmoves_mesh.agent.history import desk as desk_module
from pmoves_mesh.agent.history.desk import FOLLOWERS_MAX, QUESTIONS_MAX, HistoryDesk
from pmoves_mesh.core.history import EventsFollowed, HistoryBusyError, NodesAt, Selection
from pmoves_mesh.core.moments import Moment
from pmoves_mesh.errors import LogUnavailable

NOW = NodesAt(at=Moment(field="at"))
EVERYTHING = EventsFollowed(selection=Selection(), after=0)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("desk")) as mesh:
        alpha = mesh.started("alpha")
        alpha.register("one", port=1)
        yield alpha


def workers_of(pid: int) -> list[int]:
    """Returns the processes that tell of the past in the name of another one."""
    found = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
    )
    lines = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(number) for number, program in lines if "history.worker" in program]


def pid_of(agent: AgentProcess) -> int:
    return int((agent.data_dir / "agent.pid").read_text())


async def test_a_process_that_was_killed_is_started_again(agent: AgentProcess):
    async with desk_of(agent) as desk:
        assert (await desk.ask(NOW)).body
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGKILL)
        async with asyncio.timeout(10):
            while worker in workers_of(os.getpid()):
                await asyncio.sleep(0.02)
        assert (await desk.ask(NOW)).body
        assert workers_of(os.getpid()) != [worker]


async def test_a_question_whose_process_dies_is_asked_once_more(agent: AgentProcess):
    async with desk_of(agent) as desk:
        await desk.ask(NOW)
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGSTOP)
        asking = asyncio.create_task(desk.ask(NOW))
        await asyncio.sleep(0)
        os.kill(worker, signal.SIGKILL)
        assert (await asking).body


async def test_whoever_follows_is_told_when_the_process_dies(agent: AgentProcess):
    async with desk_of(agent) as desk:
        groups = desk.follow(EventsFollowed(selection=Selection()))
        await anext(groups)
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(LogUnavailable, match="ended; ask again"):
            await anext(groups)


async def test_it_ends_once_nobody_has_asked_for_a_while(
    agent: AgentProcess, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk_module, "_IDLE_S", 0.3)
    async with desk_of(agent) as desk:
        await desk.ask(NOW)
        async with asyncio.timeout(10):
            while workers_of(os.getpid()):
                await asyncio.sleep(0.02)
        assert (await desk.ask(NOW)).body


async def test_it_ends_with_its_desk(agent: AgentProcess):
    async with desk_of(agent) as desk:
        await desk.ask(NOW)
        assert workers_of(os.getpid())
    assert not workers_of(os.getpid())


async def test_it_ends_when_the_agent_is_killed(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        assert alpha.get("/api/nodes", at="now").status == 200
        (worker,) = workers_of(pid_of(alpha))
        alpha.kill()
        eventually(lambda: not Path(f"/proc/{worker}/cmdline").exists(), "it is gone")


async def test_one_question_too_many_is_refused_and_the_others_are_answered(agent: AgentProcess):
    async with desk_of(agent) as desk:
        asked = [asyncio.create_task(desk.ask(NOW)) for _ in range(QUESTIONS_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(HistoryBusyError):
            await desk.ask(NOW)
        assert len({(await one).body for one in asked}) == 1
        assert (await desk.ask(NOW)).body


async def test_whoever_goes_away_leaves_room_for_others(agent: AgentProcess):
    async with desk_of(agent) as desk:
        for _ in range(3):
            asked = [asyncio.create_task(desk.ask(NOW)) for _ in range(QUESTIONS_MAX)]
            await asyncio.sleep(0)
            for one in asked:
                one.cancel()
            await asyncio.wait(asked)
        assert (await desk.ask(NOW)).body
        assert desk.following == 0


async def test_only_so_many_may_follow(agent: AgentProcess, monkeypatch: pytest.MonkeyPatch):
    assert FOLLOWERS_MAX > 1
    monkeypatch.setattr(desk_module, "FOLLOWERS_MAX", 1)
    async with desk_of(agent) as desk:
        first = desk.follow(EVERYTHING)
        assert await anext(first) == []
        assert desk.following == 1
        with pytest.raises(HistoryBusyError):
            await anext(desk.follow(EVERYTHING))
        await first.aclose()
        again = desk.follow(EVERYTHING)
        assert await anext(again) == []
        await again.aclose()


async def test_nothing_more_is_sent_to_whoever_has_not_taken_what_came_before(agent: AgentProcess):
    async with desk_of(agent) as desk:
        groups = desk.follow(EVERYTHING)
        await anext(groups)
        assert len(await anext(groups)) >= 2
        (queue,) = desk._waiting.values()
        assert queue.empty()
        await groups.aclose()


async def test_a_desk_that_nobody_looks_after_says_so(agent: AgentProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk_module, "_START_S", 0.05)
    async with desk_of(agent) as other:
        desk = HistoryDesk(other._setup)
        with pytest.raises(LogUnavailable, match="has not started"):
            await desk.ask(NOW)


def test_a_reader_that_is_gone_is_no_longer_counted(agent: AgentProcess):
    def followers() -> float:
        lines = agent.get("/metrics").text.splitlines()
        (line,) = (line for line in lines if 'watchers{kind="followers"' in line)
        return float(line.rpartition(" ")[2])

    with following(agent, after=0) as events:
        next(events)
        eventually(lambda: followers() == 1, "it is counted")
    eventually(lambda: followers() == 0, "it is gone")


def test_a_reader_that_takes_nothing_keeps_nobody_waiting(agent: AgentProcess):
    port = int(agent.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(
            b"GET /api/events?after=0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        for number in range(20):
            agent.register("large", port=1, metadata={"text": "x" * 15_000, "number": number})
        with following(agent, after=0, service="large") as events:
            found = [next(events)["data"]["data"]["metadata"]["number"] for _ in range(20)]
    assert found == list(range(20))


def test_an_agent_that_is_followed_ends_in_time(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        with following(alpha, after=0) as events:
            next(events)
            assert alpha.terminate() < 5.0
            list(events)
