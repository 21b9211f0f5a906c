"""`tailscale setup|status|down` with the real tailscaled, and Headscale as its server, where both are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from agents import PROGRAM, ROOT, SETTING_PREFIXES, eventually
from ports import free_port

PROGRAMS = ("tailscale", "tailscaled", "headscale")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not on PATH: {', '.join(MISSING)}"),
    pytest.mark.timeout(180),
]

USER = "mesh"
HEADSCALE = """\
server_url: {url}
listen_addr: 127.0.0.1:{port}
metrics_listen_addr: 127.0.0.1:{metrics}
grpc_listen_addr: 127.0.0.1:{grpc}
grpc_allow_insecure: true
unix_socket: {place}/headscale.sock
noise: {{private_key_path: {place}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}}
database: {{type: sqlite, sqlite: {{path: {place}/headscale.db}}}}
dns: {{magic_dns: true, base_domain: mesh.internal, override_local_dns: false}}
derp:
  server:
    enabled: true
    region_id: 999
    region_code: test
    region_name: test
    stun_listen_addr: 127.0.0.1:{stun}
    private_key_path: {place}/derp.key
    automatically_add_embedded_derp_region: true
  urls: []
  paths: []
  auto_update_enabled: false
"""


@dataclass(frozen=True)
class Control:
    """A Headscale server."""

    url: str
    config: Path

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["headscale", "--config", self.config, *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_up(self) -> bool:
        words = ["headscale", "--config", self.config, "users", "list"]
        return subprocess.run(words, capture_output=True, timeout=30, check=False).returncode == 0

    def key(self) -> str:
        """Makes a key with which one host may join."""
        (user,) = json.loads(self("users", "list", "--output", "json"))
        # Older releases go by a user's name, newer ones by its number.
        by_number = "--user uint" in self("preauthkeys", "create", "--help")
        named = str(user["id"]) if by_number else USER
        made = json.loads(self("preauthkeys", "create", "--user", named, "--output", "json"))
        return str(made["key"])


@dataclass(frozen=True)
class Machine:
    """A tailscaled with a state of its own, and the program that speaks to it."""

    directory: Path
    control: Control

    def run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTING_PREFIXES)}
        own = {
            "PATH": f"{self.directory}:{clean['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MESH_HOSTNAME": "alpha",
            "SERVICE_REGISTRY_PORT": str(free_port()),
            "TAILSCALE_LOGIN_SERVER": self.control.url,
            "TAILSCALE_TAGS": "none",
            "TAILSCALE_TIMEOUT": "30",
        }
        return subprocess.run(
            [*PROGRAM, "tailscale", *words],
            cwd=self.directory,
            env={**clean, **own, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    place = tmp_path / "headscale"
    place.mkdir()
    port = free_port()
    made = Control(f"http://127.0.0.1:{port}", place / "config.yaml")
    ports = {"port": port, "metrics": free_port(), "grpc": free_port(), "stun": free_port()}
    made.config.write_text(HEADSCALE.format(url=made.url, place=place, **ports))
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(["headscale", "--config", made.config, "serve"], stdout=log, stderr=log) as server,
    ):
        try:
            eventually(made.is_up, "headscale answers")
            made("users", "create", USER)
            yield made
        finally:
            server.kill()


@pytest.fixture
def machine(tmp_path: Path, control: Control) -> Iterator[Machine]:
    place = tmp_path / "machine"
    place.mkdir()
    socket = place / "tailscaled.sock"
    program = place / "tailscale"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("tailscale")} --socket={socket} "$@"\n')
    program.chmod(0o755)
    words = (
        "tailscaled",
        "--tun=userspace-networking",
        f"--statedir={place}",
        f"--socket={socket}",
        "--port=0",
    )
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(words, stdout=log, stderr=log) as daemon,
    ):
        try:
            eventually(socket.exists, "tailscaled listens")
            yield Machine(place, control)
        finally:
            daemon.kill()


def test_a_host_joins_is_seen_goes_and_comes_back_without_a_key(machine: Machine):
    done = machine.run("setup", "--yes", TAILSCALE_AUTHKEY=machine.control.key())
    assert done.returncode == 0, done.stderr
    assert "alpha is in the tailnet as alpha: 100.64.0.1" in done.stdout
    written = json.loads((machine.directory / "data" / "mesh_config.json").read_text())
    assert written["tailscale_ip"] == "100.64.0.1"
    seen = machine.run("status")
    assert seen.stdout.splitlines()[1].split("\t")[:4] == ["alpha", "", "online", "100.64.0.1"]

    assert machine.run("down").returncode == 0
    assert "Tailscale is down on this host" in machine.run("status").stderr
    back = machine.run("setup", "--yes")
    assert back.returncode == 0, back.stderr


def test_a_host_that_runs_gets_another_name_without_a_key(machine: Machine):
    assert machine.run("setup", "--yes", TAILSCALE_AUTHKEY=machine.control.key()).returncode == 0
    done = machine.run("setup", "--yes", MESH_HOSTNAME="renamed")
    assert done.returncode == 0, done.stderr
    assert "tailscale set --hostname=renamed" in done.stdout


def test_a_key_that_is_none_has_its_line_and_is_not_shown(machine: Machine):
    done = machine.run("setup", "--yes", TAILSCALE_AUTHKEY="not-a-real-key")
    assert done.returncode == 1
    assert "not-a-real-key" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "the Tailscale key is wrong or was revoked" in done.stderr


def test_without_a_key_it_says_where_to_get_one(machine: Machine):
    done = machine.run("setup", "--yes")
    assert done.returncode == 1
    assert "a key is needed" in done.stderr
