"""Fixtures of the end-to-end tests: hosts that are stopped after the test, and a clean checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import namespaces
import pytest
from hosts import PROGRAM, ROOT, Host


@pytest.fixture
def new_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Makes hosts, and stops whatever still runs on them."""
    hosts: list[Host] = []

    def make(name: str = "host", **fields: Any) -> Host:
        directory = tmp_path / name
        directory.mkdir()
        hosts.append(Host(directory, **fields))
        return hosts[-1]

    yield make
    for host in hosts:
        host.run("down")


@pytest.fixture
def host(new_host: Callable[..., Host]) -> Host:
    """A host on which nothing was ever started."""
    return new_host()


@pytest.fixture
def running(host: Host) -> Host:
    """A host whose agent is ready."""
    host.up()
    return host


@pytest.fixture
def real_hosts(tmp_path: Path) -> Iterator[Callable[..., list[Host]]]:
    """Makes hosts with a network of their own between them, and stops whatever still runs on them."""
    if found := namespaces.problem():
        pytest.skip(found)
    with ExitStack() as stack:

        def make(*names: str, **settings: str) -> list[Host]:
            made = []
            for name, place in zip(names, stack.enter_context(namespaces.network(len(names))), strict=True):
                directory = tmp_path / name
                directory.mkdir()
                own = {"MESH_HOSTNAME": name, **settings}
                program = (*place.inside, str(PROGRAM))
                made.append(Host(directory, program, 8100, 4222, settings=own, place=place))
                stack.callback(made[-1].run, "down")
            return made

        yield make


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout: what git knows, and what it would take, with no venv and no state."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout, so there is no clean one to copy")
    copy = tmp_path_factory.mktemp("checkout") / "pmoves-mesh"
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips the test where pip reaches no package index."""
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "pip"),
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            tmp_path_factory.mktemp("wheels"),
            "click==8.5.1",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Could not find a version" in asked.stderr or "No matching distribution" in asked.stderr:
        pytest.skip("pip reaches no package index here")
