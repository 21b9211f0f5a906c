"""docs/tailscale.md: each of its commands, as a person runs them, beside a stub of Tailscale."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import ROOT, Host
from tailscale_stub import StubTailscale, status_text

PAGE = (ROOT / "docs" / "tailscale.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def stub(tmp_path: Path) -> StubTailscale:
    return StubTailscale.made(tmp_path / "bin")


@pytest.fixture
def place(new_host: Callable[..., Host], stub: StubTailscale) -> Host:
    """A checkout in which everything is installed, on a host that has Tailscale and no agent."""
    host = new_host(program=(sys.executable, "-m", "pmoves_mesh"))
    folder = host.directory
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "deploy" / "locks").mkdir(parents=True)
    (folder / "deploy" / "locks" / "runtime.txt").touch()
    (folder / "pyproject.toml").touch()
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "pmoves-mesh"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pmoves_mesh "$@"\n')
    program.chmod(0o755)
    for stamp in (".created", ".runtime"):
        (folder / ".venv" / stamp).touch()
    host.settings.update(
        PATH=f"{stub.directory}:/usr/sbin:/usr/bin:/sbin:/bin",
        PYTHONPATH=str(ROOT),
        MESH_NETWORK_MODE="both",
    )
    return host


def run(host: Host, *words: str) -> str:
    done = Host(
        host.directory, words, host.http_port, host.nats_port, settings=host.settings, place=host.place
    ).run()
    assert done.returncode == 0, done.stdout + done.stderr + host.log
    return done.stdout


def test_every_command_of_the_page_does_what_the_page_says(place: Host, stub: StubTailscale):
    first, setup, status = (block.split() for block in BLOCKS)
    assert "main-pc: 100.101.1.1" in run(place, *first)
    written = json.loads((place.directory / "data" / "mesh_config.json").read_text())
    assert written["tailscale_ip"] == "100.101.1.1"
    assert "is in the tailnet as main-pc" in run(place, *setup)
    (line,) = (line for line in run(place, *status).splitlines() if line.startswith("alpha"))
    assert line.split("\t")[:4] == ["alpha", "alive", "online", "100.101.1.1"]
    assert line.endswith("\t"), "the two do not disagree"
    assert run(place, "make", "registry-sync").startswith("in step up to position ")
    run(place, "make", "mesh-disconnect")
    assert stub.calls[-1] == "down"


def test_a_key_in_the_environment_or_given_to_make_reaches_tailscale(place: Host, stub: StubTailscale):
    stub.says(status_text("NeedsLogin"))
    run(place, "make", "mesh-setup", "AUTHKEY=not-a-real-one", "YES=1")
    assert stub.read("key") == "not-a-real-one"
    assert "not-a-real-one" not in "".join(stub.calls) + stub.read("environment")


def test_every_target_that_the_page_names_is_there(place: Host):
    targets = set(re.findall(r"make ((?:mesh|registry|first)-[a-z-]+)", PAGE))
    assert targets >= {"mesh-setup", "mesh-status", "mesh-disconnect", "registry-sync"}
    assert targets <= {line.split()[0] for line in run(place, "make", "help").splitlines() if line.strip()}
