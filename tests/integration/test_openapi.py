"""`/openapi.json`, held to what a real agent does: schemathesis asks every route, rightly and wrongly."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import ROOT, AgentProcess, mesh_in

from pmoves_mesh.views.http.routes import ROUTES

pytestmark = pytest.mark.timeout(300)

CASES_PER_ROUTE = 40
RUN_S = 240
STREAM = "text/event-stream"
SCHEMATHESIS = Path(sys.executable).with_name("st")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path) as mesh:
        yield mesh.started("jetson")


def endless(document: dict[str, Any]) -> list[str]:
    """Returns the paths whose answers never end, so that no client can wait for one."""
    return [
        path
        for path, operations in document["paths"].items()
        if any(
            STREAM in response.get("content", {})
            for operation in operations.values()
            for response in operation["responses"].values()
        )
    ]


def test_the_document_has_every_route(agent: AgentProcess):
    document = agent.get("/openapi.json").body
    described = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert described == {(route.method, route.path) for route in ROUTES}


def test_schemathesis_finds_nothing_in_what_a_real_agent_answers(agent: AgentProcess, tmp_path: Path):
    if not SCHEMATHESIS.exists():
        pytest.skip("schemathesis is not installed")
    excluded = [
        word for path in endless(agent.get("/openapi.json").body) for word in ("--exclude-path", path)
    ]
    done = subprocess.run(
        [
            SCHEMATHESIS,
            f"--config-file={ROOT / 'schemathesis.toml'}",
            "run",
            f"{agent.url}/openapi.json",
            "--phases=examples,coverage,fuzzing,stateful",
            f"--max-examples={CASES_PER_ROUTE}",
            "--generation-deterministic",
            "--continue-on-failure",
            "--request-timeout=20",
            "--no-color",
            *excluded,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert asked, done.stdout
    assert int(asked[1]) == int(asked[2]) > 500
    assert not agent.logged("request failed")
    assert agent.is_ready()
