"""How far long work has come, as real commands tell it of a real mesh."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from ports import free_port
from terminal_support import OWN, Terminal

from pmoves_mesh.agent import audit, backup, rebuild
from pmoves_mesh.config import Config, load
from pmoves_mesh.progress import Progress

pytestmark = pytest.mark.timeout(180)

Work = Callable[[Config, Path, Progress], object]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module")
def agent(mesh: Mesh) -> AgentProcess:
    made = mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))
    for number in range(20):
        made.register("whisper", id=str(number), port=9000 + number)
    eventually(lambda: made.registry["outbox"] == 0, "all of it is in the stream")
    assert made.run("snapshot", "save", str(made.directory / "mesh.snapshot")).returncode == 0
    return made


def test_each_step_is_told_until_all_of_it_is_done(agent: AgentProcess):
    works: dict[str, Work] = {
        "checking the stream": lambda config, _, progress: audit.run(config, progress),
        "reading the stream": lambda config, _, progress: rebuild.run(config, progress),
        "comparing the bucket": lambda config, _, progress: rebuild.run(config, progress),
        "checking the file": lambda config, path, progress: backup.restore(
            config, path, dry_run=True, progress=progress
        ),
    }
    config = load(agent.environment, agent.directory)
    for step, work in works.items():
        told: list[tuple[str, int, int | None]] = []
        work(config, agent.directory / "mesh.snapshot", lambda *one, into=told: into.append(one))
        counts = [(done, total) for each, done, total in told if each == step]
        assert counts, step
        assert [done for done, _ in counts] == sorted(done for done, _ in counts)
        last, total = counts[-1]
        assert last == total
        assert last >= 20


def test_a_check_shows_how_far_a_wanting_agent_lets_it_come(agent: AgentProcess):
    config = load(agent.environment, agent.directory)
    told: list[str] = []
    rebuild.check(config, lambda: None, lambda step, _done, _total: told.append(step))
    assert set(told) == {"reading the stream"}


def test_what_the_agent_does_itself_shows_that_it_is_waited_for(agent: AgentProcess):
    environment = {**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]}
    agent.pause()
    try:
        with Terminal([*agent.program, "registry", "sync"], environment, agent.directory) as terminal:
            terminal.until(lambda: "compares and mends" in terminal.text, "it shows what is waited for")
            agent.resume()
            assert terminal.ended() == 0
            assert "in step up to position" in terminal.text.rpartition("\x1b[2K")[2]
    finally:
        agent.resume()


SLOW = """
import asyncio
from pmoves_mesh.log.stream import NatsEventLog
bounds = NatsEventLog.bounds
async def slow(log):
    await asyncio.sleep(3)
    return await bounds(log)
NatsEventLog.bounds = slow
"""


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("audit", "beginning"),
        ("bucket rebuild", "beginning"),
        ("bucket check", "beginning"),
        ("snapshot restore mesh.snapshot", "checking the file"),
        ("snapshot save again.snapshot", "reading the bucket"),
    ],
)
def test_a_command_that_has_to_wait_shows_that_and_takes_it_away(
    agent: AgentProcess, tmp_path: Path, command: str, step: str
):
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    environment = {
        **agent.environment,
        "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2],
        "PYTHONPATH": os.pathsep.join([str(tmp_path), agent.environment["PYTHONPATH"]]),
    }
    with Terminal([*agent.program, *command.split()], environment, agent.directory) as terminal:
        terminal.until(lambda: step in terminal.text, "it shows what is waited for")
        assert terminal.ended() == 0
        left = OWN.sub("", terminal.text.rpartition("\x1b[2K")[2])
        assert step not in left
        assert left.strip()
