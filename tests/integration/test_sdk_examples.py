"""The SDK's examples, each started by its one command beside a real agent."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import DEADLINE_S, ROOT, AgentProcess, eventually, mesh_in
from plain_nats import plain_client
from ports import free_port

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh.started("alpha")


@contextmanager
def running(agent: AgentProcess, program: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Runs an example on an agent's host."""
    process = subprocess.Popen(
        [sys.executable, program],
        env={**agent.environment, "SERVICE_REGISTRY_URL": agent.url, **settings},
        cwd=agent.directory,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


async def test_the_plain_worker_is_found_works_and_leaves(alpha: AgentProcess):
    with running(alpha, EXAMPLES / "plain_worker" / "worker.py") as worker:
        assert worker.stdout is not None
        said = await asyncio.to_thread(worker.stdout.readline)
        assert said == "registered on alpha; waiting on shout.wanted.v1\n"
        (found,) = alpha.post("/api/discover", ["shout"]).body["services"]
        assert (found["name"], found["port"]) == ("shouter", 0)
        async with plain_client(alpha.environment["NATS_URL"]) as client:
            done = await client.subscribe("shout.done.v1")
            async with asyncio.timeout(DEADLINE_S):
                while done.pending_msgs == 0:
                    await client.publish("shout.wanted.v1", b"hello")
                    await asyncio.sleep(0.05)
            assert (await done.next_msg()).data == b"HELLO"
    assert worker.returncode == 0
    assert not alpha.knows("shouter")


def test_the_fastapi_service_is_found_and_finds_others(alpha: AgentProcess):
    for name in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; see examples/fastapi_service/requirements.txt")
    port = free_port()
    with running(alpha, EXAMPLES / "fastapi_service" / "app.py", PORT=str(port)):
        eventually(lambda: alpha.knows("greeter"), "it is found")
        assert alpha.get("/api/services/greeter").body["port"] == port

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/where/greeter", timeout=5) as answer:
                    return json.load(answer) == {"url": f"http://127.0.0.1:{port}"}
            except OSError:
                return False

        eventually(answers, "it serves, and finds itself")
    assert not alpha.knows("greeter")
