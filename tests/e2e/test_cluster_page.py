"""The page on three hosts, held to what it says by doing it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from clustered import GROWN_S, NAMES, begun_alone, is_whole, kill, start, told
from hosts import Host, wait_until
from pages import snippets

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.pki import keystore
from pmoves_mesh.server.binary import locate

pytestmark = pytest.mark.timeout(180)

PAGE = "cluster.md"


def complaints(host: Host) -> str:
    return host.run("doctor").stdout


def test_the_page_makes_three_hosts_of_one(real_hosts: Callable[..., list[Host]]):
    hosts = begun_alone(real_hosts, 1)
    settings = snippets(PAGE, "ini")[0]
    for name, host in zip(NAMES, hosts, strict=True):
        assert host.place is not None
        settings = settings.replace(
            f"{name}=100.64.0.{NAMES.index(name) + 1}", f"{name}={host.place.address}"
        )
    assert "100.64" not in settings
    commands = [line.split() for block in snippets(PAGE, "sh") for line in block.splitlines()]
    assert commands == [
        ["pmoves-mesh", "token", "create", "--node", "beta"],
        ["pmoves-mesh", "down"],
        ["pmoves-mesh", "up"],
        ["pmoves-mesh", "doctor"],
    ]
    for host in hosts:
        file = host.directory / "env.shared"
        held = file.read_text() if file.exists() else ""
        file.write_text(f"{held}\n{settings}")
        for name in ("SERVICE_REGISTRY_HOST", "PMOVES_NATS_HOST"):
            host.settings.pop(name, None)
        host.run("down")
    start(hosts)
    wait_until(lambda: is_whole(hosts[0]), f"all is on three servers\n{told(hosts)}", GROWN_S)
    assert "is kept on" not in complaints(hosts[1])
    kill(hosts[2])
    wait_until(lambda: "server gamma" in complaints(hosts[0]), "the server that is away is named", 30)


def test_the_configuration_of_servers_of_your_own_is_one(tmp_path: Path):
    keystore.ensure_authority(tmp_path / "ca", "routes", SystemClock().now_ms())
    keystore.open_identity(tmp_path, tmp_path / "ca", "routes", "nats1", (), SystemClock().now_ms())
    text = snippets(PAGE, "conf")[0]
    for path, own in (
        ("/etc/nats/route.crt", tmp_path / "node.crt"),
        ("/etc/nats/route.key", tmp_path / "node.key"),
        ("/etc/nats/routes-ca.crt", tmp_path / "ca" / "ca.crt"),
        ("/var/lib/nats", tmp_path / "streams"),
    ):
        assert path in text
        text = text.replace(path, str(own))
    file = tmp_path / "nats.conf"
    file.write_text(text)
    program = locate({}).path
    done = subprocess.run([program, "-t", "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
