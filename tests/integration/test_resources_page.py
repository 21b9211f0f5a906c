"""docs/resources.md: its commands and its program, run as they stand on a mesh like the one it shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import machines
import pytest
from agents import AgentProcess, eventually, mesh_in
from pages import DOCS, snippets

from pmoves_mesh.core.resources import Gpu, Resources
from pmoves_mesh.core.where import FIELDS, OPERATORS, TREES

PAGE = (DOCS / "resources.md").read_text()
SEE, ASK, MORE = snippets("resources.md", "sh")
(SHOWN,) = snippets("resources.md", "text")
(PROGRAM,) = snippets("resources.md", "python")


@pytest.fixture(scope="module")
def pc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """The host that the page is read on; it and two others have the same service."""
    if shutil.which("curl") is None or shutil.which("jq") is None:
        pytest.skip("curl or jq is not installed")
    folder = tmp_path_factory.mktemp("mesh")
    roots = {
        "pc": machines.host(folder / "pc-root", cores=16, memory_gb=31.2),
        "gpubox": machines.amd_card(machines.host(folder / "gpubox-root", memory_gb=125.6)),
        "jetson": machines.jetson(folder / "jetson-root"),
    }
    with mesh_in(folder) as mesh:
        for node, root in roots.items():
            agent = mesh.started(node, PMOVES_HOST_ROOT=str(root))
            agent.register(
                "whisper", host="10.0.0.7", port=9000, capabilities=["stt"], metadata={"model": "large"}
            )
        mesh.agree()
        agent = mesh.agents["pc"]
        eventually(lambda: agent.get("/api/nodes/jetson/load").body["load"] is not None, "loads are told")
        yield agent


def typed(agent: AgentProcess, commands: str) -> list[str]:
    """Returns the lines that commands print where they are typed."""
    port = agent.url.rpartition(":")[2]
    program = f'pmoves-mesh() {{ {sys.executable} -m pmoves_mesh "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program + commands.replace("8100", port)],
        cwd=agent.directory,
        env={**agent.environment, "SERVICE_REGISTRY_PORT": port},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def nodes_in(lines: list[str]) -> list[list[str]]:
    """Returns the nodes of each table among lines."""
    tables: list[list[str]] = []
    for line in lines:
        if line.startswith("SERVICE\t"):
            tables.append([])
        else:
            tables[-1].append(line.split("\t")[2])
    return tables


def test_the_nodes_are_shown_as_the_page_shows_them(pc: AgentProcess):
    *nodes, capabilities = typed(pc, SEE)
    assert nodes == SHOWN.splitlines()
    assert {"gpu", "rocm", "vram:24gb"} <= set(json.loads(capabilities))


def test_the_question_of_the_page_has_its_answer_in_every_way_of_asking(pc: AgentProcess):
    *table, line = typed(pc, ASK)
    assert nodes_in(table) == [["gpubox"]]
    assert json.loads(line) == ["gpubox", "10.0.0.7", 9000]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **pc.environment, "SERVICE_REGISTRY_URL": pc.url},
        cwd=pc.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "gpubox 10.0.0.7:9000\n"), done.stderr


def test_the_further_questions_are_answered(pc: AgentProcess):
    nvidia, both, without, near = nodes_in(typed(pc, MORE))
    assert (nvidia, without, near) == (["jetson"], ["pc"], ["jetson"])
    assert sorted(both) == ["jetson", "pc"]


def test_the_page_names_every_path_and_every_operator():
    assert set(OPERATORS) <= set(re.findall(r"`(\w+)`", PAGE))
    named = set(re.findall(r"`([\w.*]+)`", PAGE))
    assert set(FIELDS) <= named
    assert {f"{tree}.*" for tree in TREES} <= named
    assert set(Gpu.__struct_fields__) <= named
    assert set(Resources.__struct_fields__) - {"gpu"} <= named
