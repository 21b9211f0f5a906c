"""The two commands of a newcomer, in a clean checkout; and the package without the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host, clean_environment, listens, wait_until
from ports import free_port

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("package_index")]


@pytest.fixture(scope="module")
def newcomer(checkout: Path) -> Iterator[Host]:
    """A host in whose clean checkout only `make` is ever run."""
    host = Host(checkout, program=("make", "--no-print-directory"))
    yield host
    host.run("down")


def test_make_up_sets_everything_up_and_make_down_stops_it(newcomer: Host):
    done = newcomer.run("up", timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^http +{newcomer.url}$", done.stdout, re.MULTILINE)
    assert listens(newcomer.nats_port)

    again = newcomer.run("up")
    assert again.returncode == 0
    assert again.stdout.startswith("already running: node alpha ")

    status = newcomer.run("registry-status")
    assert "alpha" in status.stdout

    down = newcomer.run("down")
    assert down.returncode == 0, down.stderr
    assert not listens(newcomer.http_port)
    wait_until(lambda: not listens(newcomer.nats_port), "the nats-server is gone")


def test_make_down_with_nothing_running_is_one_line_of_ours(newcomer: Host):
    done = newcomer.run("down")
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(ours) == 1


def test_make_nats_tls_setup_makes_the_files_and_keeps_them(newcomer: Host, tmp_path: Path):
    newcomer.settings["PMOVES_TLS_DIR"] = str(tmp_path / "tls")
    first = newcomer.run("nats-tls-setup", timeout_s=400)
    second = newcomer.run("nats-tls-setup")
    del newcomer.settings["PMOVES_TLS_DIR"]
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert {line.split()[0] for line in second.stdout.splitlines()} == {"kept"}
    assert (tmp_path / "tls" / "ca.key").stat().st_mode & 0o777 == 0o600


def test_make_alone_names_every_target(newcomer: Host):
    out = newcomer.run().stdout
    targets = {line.split()[0] for line in out.splitlines()}
    assert targets >= {"up", "down", "registry-status", "nats-tls-setup", "test", "lint", "bench"}


def test_a_python_that_is_too_old_is_one_line(checkout: Path, tmp_path: Path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    copy = tmp_path / "Makefile"
    copy.write_bytes((checkout / "Makefile").read_bytes())
    done = subprocess.run(
        ["make", ".venv/.created", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 or later is needed" in done.stderr


def test_the_package_alone_gives_a_working_program(
    checkout: Path, tmp_path: Path, new_host: Callable[..., Host]
):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    installed = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "install", "--quiet", checkout],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    host = new_host(program=(str(venv / "bin" / "pmoves-mesh"),), nats_port=free_port())
    assert "http" in host.up()
    assert host.run("down").returncode == 0
