"""An agent under systemd: what it tells of itself, and the unit that starts it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, AgentProcess, eventually
from nats_server import NatsServer

UNIT = ROOT / "deploy" / "systemd" / "pmoves-mesh.service"
EXPOSURE_MAX = 30
"""Of 100, as `systemd-analyze security` counts; a unit without any hardening has 96."""


class Manager:
    """What systemd hears."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def hears(self, word: str) -> bool:
        """Returns whether it was told a word since the last time that it was."""
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            pass
        found = word in self.heard
        if found:
            del self.heard[: self.heard.index(word) + 1]
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.close()


def test_an_agent_says_that_it_is_ready_that_it_lives_and_that_it_ends(
    manager: Manager, address: str, tmp_path: Path, nats_server: NatsServer
):
    watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    agent = AgentProcess(tmp_path / "mesh", "alpha", nats_server.url, **watched)
    agent.start()
    try:
        eventually(lambda: manager.hears("READY=1"), "it says that it is ready")
        status = f"STATUS=node alpha of mesh pmoves-mesh at {agent.url}"
        eventually(lambda: manager.hears(status), "and where")
        for _ in range(3):
            eventually(lambda: manager.hears("WATCHDOG=1"), "it gives signs of life")
        agent.terminate()
        eventually(lambda: manager.hears("STOPPING=1"), "it says that it ends")
    finally:
        agent.kill()


def test_one_that_hangs_gives_no_sign_of_life(
    manager: Manager, address: str, tmp_path: Path, nats_server: NatsServer
):
    watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
    with AgentProcess(tmp_path / "mesh", "alpha", nats_server.url, **watched) as agent:
        eventually(lambda: manager.hears("WATCHDOG=1"), "it gives signs of life")
        agent.pause()
        manager.hears("WATCHDOG=1")
        manager.heard.clear()
        with pytest.raises(pytest.fail.Exception):
            eventually(lambda: manager.hears("WATCHDOG=1"), "it gives a sign", within_s=0.5)
        agent.resume()
        eventually(lambda: manager.hears("WATCHDOG=1"), "it gives signs again")


def test_one_that_nobody_watches_says_nothing_and_runs(tmp_path: Path, nats_server: NatsServer):
    settings = {"NOTIFY_SOCKET": str(tmp_path / "absent"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    with AgentProcess(tmp_path / "mesh", "alpha", nats_server.url, **settings) as agent:
        agent.ready()
        assert len(agent.logged("the service manager is not told")) == 1


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there in the place of the installed one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze is installed")
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/pmoves-mesh/bin/pmoves-mesh agent", "/bin/true agent"))
    return path


def analysed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_has_nothing_to_say_against_the_unit(unit: Path):
    done = analysed("verify", "--man=no", unit)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_unit_leaves_the_agent_little_that_it_could_do(unit: Path):
    done = analysed("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", unit)
    assert done.returncode == 0, done.stdout[-400:]


def test_a_wrong_command_line_is_not_tried_again_and_a_hang_is_seen_within_the_minute():
    text = UNIT.read_text()
    assert "RestartPreventExitStatus=2" in text
    assert re.search(r"^WatchdogSec=[1-5]?\d$", text, re.MULTILINE)
    assert "Type=notify" in text
