"""`pmoves-mesh tailscale setup|status|down`, with a program that replays what the real one writes."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tailscale_stub import StubTailscale, peer, status_text

from pmoves_mesh.cli import tailscale_setup
from pmoves_mesh.cli.main import main
from pmoves_mesh.tailscale.installing import Step

ROOT = Path(__file__).resolve().parents[2]
SECRET = "not-a-real-key-7f3a"
FOREIGN = ("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_", "TAILSCALE_")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubTailscale:
    made = StubTailscale.made(tmp_path / "bin")
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PATH", f"{made.directory}:/usr/bin:/bin")
    monkeypatch.setenv("MESH_HOSTNAME", "alpha")
    monkeypatch.setattr(tailscale_setup, "root_rights", tuple)
    monkeypatch.setattr("pmoves_mesh.cli.tailscale.root_rights", tuple)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return made


def mesh_file() -> dict[str, object]:
    fields: dict[str, object] = json.loads(Path("data/mesh_config.json").read_text())
    return fields


def test_setup_joins_prints_the_address_and_writes_the_mesh_file(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("NeedsLogin"))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    monkeypatch.setenv("NATS_URL", f"nats://user:{SECRET}@10.0.0.9:4222")
    assert main(["tailscale", "setup", "--yes"]) == 0
    printed = capsys.readouterr()
    assert "alpha is in the tailnet as main-pc: 100.101.1.1, fd7a:115c:a1e0::1" in printed.out
    assert stub.read("key") == SECRET
    written = mesh_file()
    assert isinstance(written.pop("created_at"), str)
    assert written == {
        "mesh_name": "pmoves-mesh",
        "hostname": "alpha",
        "tailscale_ip": "100.101.1.1",
        "tailscale_ipv6": "fd7a:115c:a1e0::1",
        "nats_url": "nats://10.0.0.9:4222",
        "nats_external_url": "nats://10.0.0.9:4222",
        "mesh_mode": "both",
    }


def test_the_key_is_on_no_command_line_in_no_output_and_in_no_file_that_stays(
    stub: StubTailscale,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    stub.says(status_text("NeedsLogin"))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 0
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err + "".join(stub.calls) + stub.read("environment")
    assert stub.read("key.path").strip() == "/dev/stdin"
    (stub.directory / "key").unlink()  # the stub's own copy
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]


def test_where_joining_fails_no_mesh_file_is_written(stub: StubTailscale, monkeypatch: pytest.MonkeyPatch):
    stub.says(status_text("NeedsLogin"))
    stub.when_up("backend error: invalid key: API key does not exist", code=1)
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 1
    assert not Path("data/mesh_config.json").exists()


@pytest.mark.parametrize(
    ("state", "remembered", "said"),
    [
        ("NeedsLogin", 'register request: http 401: {"User":', "the Tailscale key is wrong or was revoked"),
        ("NeedsLogin", "register request: authkey expired", "the Tailscale key has expired"),
        ("NeedsMachineAuth", "", "must approve this host"),
        ("NeedsLogin", "", "Tailscale was not up in time"),
        ("Starting", "", "Tailscale was not up in time"),
    ],
)
def test_where_it_is_not_up_in_time_what_tailscale_remembers_of_it_is_said(
    stub: StubTailscale,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    remembered: str,
    said: str,
):
    health = [f"You are logged out. The last login error was: {remembered}"] if remembered else []
    stub.says(status_text("NeedsLogin"))
    stub.when_up("timeout waiting for Tailscale service to enter a Running state", code=1)
    stub.when_up_fails(status_text(state, Health=health))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 1
    assert said in capsys.readouterr().err


def test_a_key_that_tailscale_repeats_is_not_shown(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("NeedsLogin"))
    stub.when_up(f"something new: {SECRET}", code=1)
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 1
    printed = capsys.readouterr()
    assert "something new: ***" in printed.err
    assert SECRET not in printed.out + printed.err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_while_it_joins_the_key_is_left_nowhere(
    stub: StubTailscale, tmp_path: Path, how: signal.Signals
):
    stub.says(status_text("NeedsLogin"))
    stub.hangs_when_up()
    places = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TAILSCALE_AUTHKEY": SECRET}
    words = (sys.executable, "-m", "pmoves_mesh", "tailscale", "setup", "--yes")
    with subprocess.Popen(words, env={**os.environ, **places}, stdin=subprocess.DEVNULL) as process:
        deadline = time.perf_counter() + 20
        while not (stub.directory / "key.path").exists():
            assert time.perf_counter() < deadline
            time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(10) != 0
    (stub.directory / "key").unlink()  # the stub's own copy
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]


def test_a_file_that_holds_the_key_is_named_and_stays(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    stub.says(status_text("NeedsLogin"))
    path = tmp_path / "key.txt"
    path.write_text(SECRET)
    monkeypatch.setenv("TAILSCALE_AUTHKEY_FILE", str(path))
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert stub.read("key.path").strip() == str(path)
    assert path.exists()


def test_what_will_be_run_is_said_and_without_yes_nobody_to_ask_means_no(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("NeedsLogin"))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup"]) == 1
    printed = capsys.readouterr()
    assert "  tailscale up --hostname=alpha --accept-routes=true --auth-key=file:/dev/stdin" in printed.out
    assert "run it with --yes" in printed.err
    assert not any(call.startswith("up") for call in stub.calls)


def test_a_host_that_is_in_the_tailnet_is_left_as_it_is(stub: StubTailscale):
    assert main(["tailscale", "setup"]) == 0
    assert set(stub.calls) == {"status --json"}
    assert mesh_file()["tailscale_ip"] == "100.101.1.1"


def test_a_host_that_runs_under_another_name_gets_this_nodes_and_keeps_all_else(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MESH_HOSTNAME", "renamed")
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert [call for call in stub.calls if not call.startswith("status")] == ["set --hostname=renamed"]


def test_a_host_that_runs_with_other_tags_logs_in_anew_with_the_key(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TAILSCALE_TAGS", "tag:pmoves,tag:gpu")
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 0
    (up,) = (call for call in stub.calls if call.startswith("up"))
    assert "--advertise-tags=tag:pmoves,tag:gpu" in up
    assert stub.read("key") == SECRET


def test_without_a_key_other_tags_are_left_and_it_is_said_what_they_would_need(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TAILSCALE_TAGS", "tag:gpu")
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert "this host's tags stay tag:pmoves; with a key they become tag:gpu" in capsys.readouterr().out
    assert set(stub.calls) == {"status --json"}


def test_a_host_that_is_logged_in_needs_no_key_when_its_daemon_was_down(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch
):
    stub.says("", error="failed to connect to local tailscaled; it doesn't appear to be running", code=1)
    (stub.directory / "ready").write_text(status_text())
    start = f"cd {stub.directory} && cp ready status.out && : > status.err && echo 0 > status.code"
    monkeypatch.setattr(
        tailscale_setup, "start_steps", lambda _: (Step("start Tailscale", ("sh", "-c", start)),)
    )
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert set(stub.calls) == {"status --json"}


def test_a_host_that_was_taken_down_comes_back_without_a_key(stub: StubTailscale):
    stub.says(status_text("Stopped"))
    assert main(["tailscale", "setup", "--yes"]) == 0
    (up,) = (call for call in stub.calls if call.startswith("up"))
    assert "--auth-key" not in up


def test_without_a_key_setup_says_where_to_get_one(stub: StubTailscale, capsys: pytest.CaptureFixture[str]):
    stub.says(status_text("NeedsLogin"))
    assert main(["tailscale", "setup", "--yes"]) == 1
    assert "a key is needed: make one at https://login.tailscale.com" in capsys.readouterr().err


def test_a_daemon_that_is_down_is_started(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says("", error="failed to connect to local tailscaled; it doesn't appear to be running", code=1)
    (stub.directory / "ready").write_text(status_text("NeedsLogin"))
    start = f"cd {stub.directory} && cp ready status.out && : > status.err && echo 0 > status.code"
    monkeypatch.setattr(
        tailscale_setup, "start_steps", lambda _: (Step("start Tailscale", ("sh", "-c", start)),)
    )
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert "start Tailscale" in capsys.readouterr().out


def test_where_it_is_missing_it_is_installed_and_then_started(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch
):
    stub.says(status_text("NeedsLogin"))
    stub.program.rename(stub.directory / "package")
    install = Step("install Tailscale", ("mv", str(stub.directory / "package"), str(stub.program)))
    monkeypatch.setattr(tailscale_setup, "install_steps", lambda *_: (install,))
    monkeypatch.setattr(tailscale_setup, "start_steps", lambda _: ())
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 0
    assert any(call.startswith("up") for call in stub.calls)


def test_a_step_that_fails_is_named(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.program.unlink()
    monkeypatch.setattr(tailscale_setup, "install_steps", lambda *_: (Step("install", ("false",)),))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    assert main(["tailscale", "setup", "--yes"]) == 1
    assert "this failed with exit code 1: false" in capsys.readouterr().err


def test_the_mode_nats_leaves_tailscale_alone_and_writes_the_mesh_file(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MESH_NETWORK_MODE", "nats")
    assert main(["tailscale", "setup"]) == 0
    assert stub.calls == []
    assert (mesh_file()["tailscale_ip"], mesh_file()["mesh_mode"]) == (None, "nats")


def test_status_shows_the_tailnet_when_no_agent_answers_and_says_so(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("Running", peer("jetson", 2, CurAddr="192.0.2.7:41641", Active=True)))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("SERVICE_REGISTRY_PORT", str(nobody.getsockname()[1]))
    assert main(["tailscale", "status"]) == 1
    printed = capsys.readouterr()
    assert "jetson\t\tonline\t100.101.1.2\tdirect at 192.0.2.7:41641" in printed.out
    assert "no agent answers at" in printed.err


def test_status_as_json_names_what_is_wrong_with_tailscale(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("NeedsMachineAuth"))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv("SERVICE_REGISTRY_PORT", str(nobody.getsockname()[1]))
    assert main(["tailscale", "status", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["machines"] == []
    assert answer["problems"][0].startswith("an administrator of the tailnet must approve this host; ")


def test_down_takes_the_host_out_of_its_tailnet(stub: StubTailscale):
    assert main(["tailscale", "down"]) == 0
    assert stub.calls == ["down"]


def test_make_hands_the_key_on_through_the_environment_alone():
    shown = subprocess.run(
        ["make", "--dry-run", "mesh-setup", f"AUTHKEY={SECRET}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pmoves-mesh tailscale setup" in shown.stdout
    assert SECRET not in shown.stdout


def test_the_mesh_file_can_be_read_by_the_programs_of_other_users(stub: StubTailscale):
    del stub
    assert main(["tailscale", "setup"]) == 0
    assert stat.S_IMODE(Path("data/mesh_config.json").stat().st_mode) == 0o644


class Terminal(io.StringIO):
    """A person at a terminal, who answers this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "joined"), [("n", 1, False), ("", 1, False), ("y", 0, True)])
def test_a_person_on_a_terminal_is_asked_before_anything_is_run(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, joined: bool
):
    stub.says(status_text("NeedsLogin"))
    monkeypatch.setenv("TAILSCALE_AUTHKEY", SECRET)
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert main(["tailscale", "setup"]) == code
    assert any(call.startswith("up") for call in stub.calls) is joined


@pytest.mark.parametrize(("mode", "code"), [("both", 0), ("tailscale", 1)])
def test_a_person_without_a_key_goes_on_without_tailscale_unless_it_is_needed(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, mode: str, code: int
):
    stub.says(status_text("NeedsLogin"))
    monkeypatch.setenv("MESH_NETWORK_MODE", mode)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("click.prompt", lambda *_, **__: "")
    assert main(["tailscale", "setup"]) == code
    assert not any(call.startswith("up") for call in stub.calls)
    assert Path("data/mesh_config.json").exists() is (code == 0)


class Agent(BaseHTTPRequestHandler):
    """An agent that knows of one lost node."""

    def do_GET(self) -> None:
        node = {"name": "jetson", "status": "lost", "host": "100.101.1.2", "tailscale_ip": "100.101.1.2"}
        body = json.dumps({"count": 1, "nodes": [{**node, "last_seen": "2030-01-01T00:00:00Z"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def agent(stub: StubTailscale, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    del stub  # its settings go first
    with ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("SERVICE_REGISTRY_PORT", str(server.server_port))
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("agent")
def test_status_shows_the_mesh_beside_the_tailnet_and_exits_with_0(
    stub: StubTailscale, capsys: pytest.CaptureFixture[str]
):
    stub.says(status_text("Running", peer("jetson", 2), peer("phone", 3, Online=False)))
    assert main(["tailscale", "status"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split("\t")[:3] == ["NAME", "MESH", "TAILSCALE"]
    assert [line.split("\t")[:3] for line in lines] == [
        ["jetson", "lost", "online"],
        ["main-pc", "", "online"],
        ["phone", "", "offline"],
    ]
    assert lines[0].endswith("Tailscale reaches it, but its agent is down or cut off from NATS")


@pytest.mark.usefixtures("agent")
def test_status_shows_the_nodes_when_tailscale_fails(stub: StubTailscale, capsys: pytest.CaptureFixture[str]):
    stub.says("", error="failed to connect to local tailscaled", code=1)
    assert main(["tailscale", "status"]) == 1
    printed = capsys.readouterr()
    assert "jetson\tlost\t\t100.101.1.2" in printed.out
    assert "tailscaled is not running; start it" in printed.err
