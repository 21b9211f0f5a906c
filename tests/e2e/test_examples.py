"""The examples, run on two hosts: network namespaces where they can be made, else loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import MESH, FileAuthority, IdentityFiles
from hosts import ROOT, clean_environment

EXAMPLE = ROOT / "examples" / "mutual_tls"
SERVER = f"spiffe://{MESH}/service/whisper"
CLIENT = f"spiffe://{MESH}/service/whisper-client"
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Machine:
    """Where a program runs: an address, and what comes before its command line there."""

    address: str
    enter: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    status: int
    output: str
    problem: str


def ip(*words: str) -> bool:
    """Runs `ip`, and says whether that went well."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@contextmanager
def namespaces() -> Iterator[tuple[Machine, Machine] | None]:
    """Two hosts of their own, joined by a cable; None where that takes rights that are missing."""
    if shutil.which("ip") is None:
        yield None
        return
    names = [f"mesh-{os.getpid()}-{side}" for side in "ab"]
    machines = [
        Machine(f"10.213.0.{number}", ("ip", "netns", "exec", name)) for number, name in enumerate(names, 1)
    ]
    a, b = names
    try:
        made = all(ip("netns", "add", name) for name in names)
        made = made and ip("link", "add", "mesh0", "netns", a, "type", "veth", "peer", "mesh0", "netns", b)
        for machine, name in zip(machines, names, strict=True):
            made = made and ip("-n", name, "address", "add", f"{machine.address}/24", "dev", "mesh0")
            made = made and ip("-n", name, "link", "set", "mesh0", "up")
        yield (machines[0], machines[1]) if made else None
    finally:
        for name in names:
            ip("netns", "delete", name)


@pytest.fixture
def hosts() -> Iterator[tuple[Machine, Machine]]:
    """The server's host and the client's."""
    with namespaces() as found:
        yield found or (Machine("127.0.0.2"), Machine("127.0.0.3"))


@pytest.fixture
def mesh(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "tls")


def files_of(identity: IdentityFiles) -> list[str]:
    return [
        f"--certificate={identity.certificate}",
        f"--key={identity.key}",
        f"--roots={identity.roots}",
    ]


@contextmanager
def serving(machine: Machine, identity: IdentityFiles, allow: str) -> Iterator[int]:
    """Runs the example's server, and yields its port."""
    command = [sys.executable, EXAMPLE / "server.py", *files_of(identity), f"--allow={allow}"]
    process = subprocess.Popen(
        [*machine.enter, *command, f"--host={machine.address}", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            said = process.stdout.readline()
            found = re.fullmatch(rf"listening on {re.escape(machine.address)} port (\d+)\n", said)
            assert found, said
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def call(machine: Machine, server: Machine, port: int, identity: IdentityFiles, wanted: str) -> Result:
    """Runs the example's client to its end."""
    command = [sys.executable, EXAMPLE / "client.py", *files_of(identity), f"--server={wanted}"]
    ended = subprocess.run(
        [*machine.enter, *command, f"--host={server.address}", f"--port={port}", "hello"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE_S,
        check=False,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def test_two_services_on_two_hosts_talk_and_a_third_that_is_not_listed_is_refused(
    hosts: tuple[Machine, Machine], mesh: FileAuthority
):
    here, there = hosts
    listed, unlisted = mesh.identity("whisper-client"), mesh.identity("stranger")
    with serving(here, mesh.identity("whisper"), CLIENT) as port:
        assert call(there, here, port, listed, SERVER) == Result(0, "HELLO\n", "")
        refused = call(there, here, port, unlisted, SERVER)
        assert (refused.status, refused.output) == (1, "")
        assert re.fullmatch(r"no answer: [^\n]+\n", refused.problem), refused.problem
        assert call(there, here, port, listed, SERVER).output == "HELLO\n"


def test_a_caller_does_not_talk_to_a_service_that_bears_another_name(
    hosts: tuple[Machine, Machine], mesh: FileAuthority
):
    here, there = hosts
    with serving(here, mesh.identity("impostor"), CLIENT) as port:
        refused = call(there, here, port, mesh.identity("whisper-client"), SERVER)
    assert (refused.status, refused.output) == (1, "")
    assert f"spiffe://{MESH}/service/impostor is not one of {SERVER}" in refused.problem


def test_a_service_of_another_mesh_is_refused_though_it_bears_a_listed_name(
    hosts: tuple[Machine, Machine], mesh: FileAuthority, tmp_path: Path
):
    here, there = hosts
    foreign = FileAuthority(tmp_path / "foreign").identity("whisper-client")
    trusting = IdentityFiles(foreign.certificate, foreign.key, mesh.roots)
    with serving(here, mesh.identity("whisper"), CLIENT) as port:
        assert call(there, here, port, trusting, SERVER).status == 1
