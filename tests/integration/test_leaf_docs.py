"""The page on leaf nodes: a host is set up, used and set back as it says, with what it says as the result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, eventually
from leaf_support import Edge, Hub
from ports import free_port

PAGE = (ROOT / "docs" / "leaf.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """A host that joined the mesh, and knows nothing of leaf nodes yet."""
    with Hub(tmp_path / "hub") as hub:
        hub.ready()
        edge = Edge(tmp_path / "edge", hub)
        for name in ("SERVICE_MODE", "NATS_URL", "NATS_EXTERNAL_URL", "PMOVES_LEAF"):
            del edge.settings[name]
        edge.settings["SERVICE_REGISTRY_PORT"] = str(free_port())
        edge.join(hub)
        yield edge
        edge.run("down")


def types(edge: Edge, commands: str) -> str:
    """Types commands on a host where the program is on PATH."""
    programs = edge.directory / "bin"
    programs.mkdir(exist_ok=True)
    wrapper = programs / "pmoves-mesh"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m pmoves_mesh "$@"\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        ["bash", "-eu", "-c", commands],
        cwd=edge.directory,
        env={**edge.environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_the_page_says_sets_a_host_up_and_back(edge: Edge):
    set_up, ask, undo = SHELL
    (program,) = PYTHON
    types(edge, set_up)
    edge.is_leaf()
    said: list[str] = []

    def says_so() -> bool:
        said.append(types(edge, ask))
        return "connected to the hub" in said[-1]

    eventually(says_so, f"doctor says so: {said}")
    done = subprocess.run(
        [sys.executable, "-c", program.replace(":4222", f":{edge.port}")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "kept in NOTES of edge\n", done.stderr
    types(edge, undo)
    assert not (edge.data_dir / "leaf" / "nats" / "nats-server.pid").exists()
    assert "MESH_HOSTNAME=edge" in (edge.directory / "env.shared").read_text()
