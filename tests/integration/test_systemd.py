"""What systemd is told by a real agent, and what systemd says of the unit that is shipped."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from agents import DEADLINE_S, ROOT, AgentProcess, eventually
from nats_server import NatsServer

from pmoves_mesh import __version__

UNIT = ROOT / "deploy" / "systemd" / "pmoves-mesh.service"
ACCOUNT = UNIT.with_suffix(".sysusers")
INSTALLED_S = 100
EXPOSURE_MAX = 25  # tenths; below 3.0 systemd is content


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """Listens as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        told.settimeout(DEADLINE_S)
        yield told


def heard_until(told: socket.socket, word: str) -> list[str]:
    """Returns all that is told up to a line that begins with a word."""
    lines: list[str] = []
    while not (lines and any(line.startswith(word) for line in lines[-2:])):
        lines += told.recv(4096).decode().splitlines()
    return lines


def silence(told: socket.socket, for_s: float) -> None:
    """Returns once nothing was told for so long."""
    told.settimeout(for_s)
    with suppress(TimeoutError):
        while True:
            told.recv(4096)
    told.settimeout(DEADLINE_S)


def test_it_is_ready_before_nats_is_there_and_tells_how_it_is_while_its_loop_turns(
    tmp_path: Path, nats_server: NatsServer
):
    nats_server.kill()
    address = f"@pmoves-mesh-{tmp_path.name}"
    settings = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"}
    agent = AgentProcess(tmp_path, "alpha", nats_server.url, **settings)
    with manager(address) as told, agent:
        before = heard_until(told, "READY=1")
        assert "READY=1" in before
        away = heard_until(told, "STATUS=answering from memory, nodes: 1")
        nats_server.start()
        assert heard_until(told, "STATUS=the mesh is followed, nodes: 1").count("WATCHDOG=1") >= 1
        for _ in range(3):
            heard_until(told, "WATCHDOG=1")
        agent.pause()
        silence(told, 1.5)
        agent.resume()
        heard_until(told, "WATCHDOG=1")
        assert agent.terminate() < 5
        assert heard_until(told, "STOPPING=1").count("READY=1") == 0
        assert not [line for line in away if line.startswith("STOPPING")]


def test_a_manager_that_does_not_listen_is_one_line_in_the_log(tmp_path: Path, nats_server: NatsServer):
    agent = AgentProcess(
        tmp_path, "alpha", nats_server.url, NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="100000"
    )
    with agent:
        agent.ready()
        eventually(lambda: bool(agent.logged("systemd is not told how the agent is")), "it says so")
        agent.register("rag", port=1)
        assert len(agent.logged("systemd is not told how the agent is")) == 1


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    need("systemd-analyze")
    program = str(Path(sys.executable).with_name("pmoves-mesh"))
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/pmoves-mesh/bin/pmoves-mesh", program))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    ours = [line for line in checked.stderr.splitlines() if UNIT.name in line]
    assert (checked.returncode, ours) == (0, [])


def test_the_unit_exposes_little():
    need("systemd-analyze")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", UNIT]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    if "offline" in judged.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")
    assert judged.returncode == 0, judged.stdout[-300:]


def test_the_account_of_the_unit_is_made(tmp_path: Path):
    need("systemd-sysusers")
    for folder in ("etc", "usr/lib/sysusers.d"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ACCOUNT, tmp_path / "usr/lib/sysusers.d/pmoves-mesh.conf")
    command = ["systemd-sysusers", f"--root={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    (user,) = re.findall(r"(?m)^User=(.*)$", UNIT.read_text())
    assert f"{user}:x:" in (tmp_path / "etc" / "passwd").read_text()


def test_the_commands_of_the_page_install_what_the_unit_runs(tmp_path: Path):
    need("systemd-analyze")
    if os.geteuid() != 0:
        pytest.skip("only root installs")
    (commands,) = re.findall(r"(?s)```sh\n(.*?)```", UNIT.with_name("README.md").read_text())
    layers = tmp_path / "layers"
    # In a view of the file system of its own: what is installed is nowhere else, and gone afterwards.
    begin = f"""
        mkdir {layers}
        mount -t tmpfs none {layers}
        mkdir {layers}/etc {layers}/work {layers}/opt
        mount -t overlay none -o lowerdir=/etc,upperdir={layers}/etc,workdir={layers}/work /etc
        mount --bind {layers}/opt /opt
    """
    end = """
        systemd-analyze verify --man=no /etc/systemd/system/pmoves-mesh.service
        setpriv --reuid=pmoves-mesh --clear-groups /opt/pmoves-mesh/bin/pmoves-mesh version
    """
    installed = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "bash", "-exc", begin + commands + end],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=INSTALLED_S,
        check=False,
    )
    if "mount" in installed.stderr.splitlines()[-1] and installed.returncode:
        pytest.skip(f"no file system of its own can be had: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr[-2000:]
    assert installed.stdout.splitlines()[-1] == f"pmoves-mesh {__version__}"
