"""The commands against an HTTP server that answers as DESIGN section 10 says an agent does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import structlog

from pmoves_mesh import __version__
from pmoves_mesh.agent.operator import Build
from pmoves_mesh.cli.main import cli, main
from pmoves_mesh.config import Config
from pmoves_mesh.core.event import Event, InstanceEvicted

SETTING_PREFIXES = ("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")
INSTANCE = {
    "name": "whisper",
    "id": "main",
    "node": "alpha",
    "host": "10.0.0.7",
    "port": 9000,
    "mode": "docked",
    "capabilities": ["stt", "gpu"],
    "health_status": "healthy",
    "verified": True,
    "last_seen": "2030-01-01T00:00:00Z",
}
NODE = {
    "name": "alpha",
    "status": "alive",
    "host": "10.0.0.7",
    "port": 8100,
    "mode": "docked",
    "capabilities": ["gpu"],
    "services": ["whisper"],
    "last_seen": "2030-01-01T00:00:00Z",
    "verified": True,
    "signer": "ab12",
}
STATUS = {
    "registry": {"mesh": "lab", "hostname": "alpha", "nats_url": "nats://127.0.0.1:4222", "position": 7},
    "services": [INSTANCE],
    "nodes": [NODE],
}


class Asked(NamedTuple):
    method: str
    path: str
    authorization: str | None
    body: Any


@dataclass
class ScriptedAgent:
    """Answers every request with `answer`, and remembers what was asked."""

    port: int = 0
    status: int = 200
    answer: object = None
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def agent() -> Iterator[ScriptedAgent]:
    scripted = ScriptedAgent()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            scripted.asked.append(Asked(self.command, self.path, self.headers["Authorization"], body))
            raw = (
                scripted.answer
                if isinstance(scripted.answer, bytes)
                else json.dumps(scripted.answer).encode()
            )
            self.send_response(scripted.status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *arguments: object) -> None:
            """Says nothing: the test's output is the command's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        scripted.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder, with no setting of this host's."""
    for name in list(os.environ):
        if name.startswith(SETTING_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str, **settings: object) -> Outcome:
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run_command


def command_names() -> list[str]:
    return cli.list_commands(click.Context(cli))


# The command line itself


def test_the_overview_imports_nothing_that_takes_long():
    script = (
        "import sys; from pmoves_mesh.cli.main import main; main(['--help']); "
        "print(sorted({'rich', 'asyncio', 'aiohttp', 'nats', 'msgspec', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_overview_names_every_command_with_the_first_line_of_its_own_help(run: Run):
    overview = " ".join(run("--help").out.split())
    for name in command_names():
        assert f" {name} " in overview


@pytest.mark.parametrize("name", command_names())
def test_the_help_of_every_command_has_an_example(run: Run, name: str):
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert "Example:\n" in outcome.out
    assert f"pmoves-mesh {name}" in outcome.out or f"pmoves-mesh {name}".replace(" ", "_") in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["status", "--no-such-option"],
        ["register", "whisper"],
        ["register", "whisper", "--port", "65536"],
        ["register", "whisper", "--port", "1", "--meta", "no-equals-sign"],
        ["discover"],
        ["discover", "--where", ""],
        ["discover", "gpu", "--limit", "0"],
        ["discover", "gpu", "--prefer", "cheapest"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(run: Run, arguments: list[str]):
    outcome = run(*arguments)
    assert outcome.code == 2
    assert "Error: " in outcome.err
    assert outcome.out == ""


def test_a_bad_setting_is_one_line_and_exits_with_1(run: Run):
    outcome = run("status", SERVICE_REGISTRY_PORT="eighty")
    assert outcome.code == 1
    assert outcome.err.startswith("pmoves-mesh: SERVICE_REGISTRY_PORT='eighty' is not usable: ")
    assert outcome.err.count("\n") == 1


def test_a_port_of_the_agents_own_choice_is_refused_by_commands(run: Run):
    outcome = run("status", SERVICE_REGISTRY_PORT=0)
    assert outcome.code == 1
    assert "a command must know the port" in outcome.err


def test_a_reader_that_leaves_early_gets_no_complaint():
    script = "import sys; from pmoves_mesh.cli.main import main; sys.exit(main(['completion', 'bash']))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=write_end,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_bug_is_one_line_that_says_where(run: Run, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        try:
            _ = {}["gone"]
        except KeyError as error:
            raise ExceptionGroup("tasks", [error]) from None

    monkeypatch.setattr("pmoves_mesh.cli.client.load", fail)
    outcome = run("status")
    assert outcome.code == 1
    assert re.fullmatch(r"pmoves-mesh: a bug, please report it: KeyError: 'gone' \(\S+:\d+\)\n", outcome.err)


# Reading


@pytest.mark.parametrize(
    "arguments", [["status"], ["nodes"], ["services"], ["service", "x"], ["discover", "gpu"]]
)
def test_without_an_agent_every_command_says_how_to_start_one(
    run: Run, agent: ScriptedAgent, arguments: list[str], unused_tcp_port: int
):
    outcome = run(*arguments, SERVICE_REGISTRY_PORT=unused_tcp_port)
    assert outcome.code == 1
    url = f"http://127.0.0.1:{unused_tcp_port}"
    assert outcome.err == f"pmoves-mesh: no agent answers at {url}; start it with: pmoves-mesh up\n"
    assert not agent.asked


@pytest.mark.parametrize(
    ("arguments", "request_line", "answer"),
    [
        (["status", "--json"], "GET /api/status", STATUS),
        (["nodes", "--json"], "GET /api/nodes", {"count": 1, "nodes": [NODE]}),
        (["services", "--json"], "GET /api/services", {"count": 1, "services": [INSTANCE]}),
        (
            ["service", "whisper", "--json"],
            "GET /api/services/whisper",
            {**INSTANCE, "instances": [INSTANCE]},
        ),
        (["discover", "gpu", "--json"], "POST /api/discover", {"count": 1, "services": [INSTANCE]}),
    ],
)
def test_json_is_the_agents_own_answer(
    run: Run, agent: ScriptedAgent, arguments: list[str], request_line: str, answer: object
):
    agent.answer = answer
    outcome = run(*arguments, SERVICE_REGISTRY_PORT=agent.port)
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == answer
    assert [f"{asked.method} {asked.path}" for asked in agent.asked] == [request_line]


def test_status_shows_the_registry_then_nodes_then_services(run: Run, agent: ScriptedAgent):
    agent.answer = STATUS
    out = run("status", SERVICE_REGISTRY_PORT=agent.port).out
    assert out.index("position  7") < out.index("NODE\tSTATUS") < out.index("SERVICE\tID")
    assert "alpha\talive\t10.0.0.7:8100" in out
    assert "whisper\tmain\talpha\t10.0.0.7:9000\thealthy" in out


@pytest.mark.parametrize(
    ("resources", "shown"),
    [
        (
            {"cpu_cores": 16, "memory_gb": 31.0, "gpu": [{"model": "RTX", "memory_gb": 24}]},
            "16 cores, 31 GB, RTX 24 GB",
        ),
        ({"cpu_cores": 4, "gpu": [{"vendor": "amd"}]}, "4 cores, GPU"),
        ({"load": 0.25}, ""),
        ({"cpu_cores": "many", "memory_gb": True, "gpu": 2}, ""),
        ({"gpu": [3, {"model": "X", "memory_gb": "much"}]}, "X"),
        (None, ""),
        ([], ""),
    ],
)
def test_a_node_shows_what_it_has_in_a_few_words(
    run: Run, agent: ScriptedAgent, resources: object, shown: str
):
    agent.answer = {"count": 1, "nodes": [{**NODE, "mode": "docked", "resources": resources}]}
    outcome = run("nodes", SERVICE_REGISTRY_PORT=agent.port)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"\tdocked\t{shown}\t" in outcome.out


def test_conditions_and_preferences_are_sent_as_the_agent_takes_them(run: Run, agent: ScriptedAgent):
    agent.answer = {"count": 1, "services": [{**INSTANCE, "round_trip_ms": 1.5}]}
    arguments = ("--where", "port>=80", "--where", "port<90", "--prefer", "nearest", "--limit", "3")
    out = run("discover", "stt", *arguments, SERVICE_REGISTRY_PORT=agent.port).out
    (asked,) = agent.asked
    assert asked.body == {
        "capabilities": ["stt"],
        "where": {"port": {"gte": 80, "lt": 90}},
        "prefer": "nearest",
        "limit": 3,
    }
    assert out.splitlines()[0].endswith("\tROUND TRIP MS")
    assert out.splitlines()[1].endswith("\t1.5")


def test_a_service_shows_its_best_instance_and_all_of_them(run: Run, agent: ScriptedAgent):
    agent.answer = {
        **INSTANCE,
        "instances": [INSTANCE, {**INSTANCE, "id": "second", "port": 0, "host": "::1"}],
    }
    out = run("service", "whisper", SERVICE_REGISTRY_PORT=agent.port).out
    assert "capabilities   stt, gpu\n" in out
    assert "whisper\tsecond\talpha\t[::1]\thealthy" in out


def test_filters_are_sent_as_a_query(run: Run, agent: ScriptedAgent):
    agent.answer = {"count": 0, "services": []}
    arguments = [
        "services",
        "--mode",
        "docked",
        "--capability",
        "gpu:rtx",
        "--node",
        "alpha",
        "--healthy-only",
    ]
    assert run(*arguments, SERVICE_REGISTRY_PORT=agent.port).code == 0
    assert (
        agent.asked[0].path == "/api/services?mode=docked&capability=gpu%3Artx&node=alpha&healthy_only=true"
    )


def test_a_name_is_escaped_in_the_path(run: Run, agent: ScriptedAgent):
    agent.answer = {"status": "unregistered", "name": "a/b"}
    run("deregister", "a/b?", SERVICE_REGISTRY_PORT=agent.port)
    assert agent.asked[0].path == "/api/services/a%2Fb%3F"


@pytest.mark.parametrize(
    ("status", "answer", "line"),
    [
        (404, {"title": "Not Found", "detail": "Service not found"}, "Service not found"),
        (403, {"title": "Forbidden"}, "Forbidden"),
        (500, b"<html>", "the agent answered with HTTP status 500"),
        (200, b"<html>", "what answers at {url} is not a pmoves-mesh agent"),
        (200, b"", "what answers at {url} is not a pmoves-mesh agent"),
        (200, [INSTANCE], "what answers at {url} is not a pmoves-mesh agent"),
        (200, {"name": "whisper"}, "what answers at {url} is not a pmoves-mesh agent"),
        (200, {"name": "whisper", "instances": [1]}, "what answers at {url} is not a pmoves-mesh agent"),
    ],
)
def test_a_problem_is_one_line_and_exits_with_1(
    run: Run, agent: ScriptedAgent, status: int, answer: object, line: str
):
    agent.status, agent.answer = status, answer
    outcome = run("service", "whisper", SERVICE_REGISTRY_PORT=agent.port)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"pmoves-mesh: {line.format(url=agent.url)}\n"


def test_a_wildcard_address_is_asked_on_loopback(run: Run, agent: ScriptedAgent):
    agent.answer = {"count": 0, "nodes": []}
    assert run("nodes", SERVICE_REGISTRY_PORT=agent.port, SERVICE_REGISTRY_HOST="0.0.0.0").code == 0
    assert len(agent.asked) == 1


# Registering


def test_register_sends_every_option_and_the_token(run: Run, agent: ScriptedAgent):
    agent.answer = {"status": "registered", "service": INSTANCE}
    outcome = run(
        *["register", "whisper", "--port", "9000", "--host", "10.0.0.7", "--mode", "standalone"],
        *["--capability", "stt", "--capability", "gpu", "--health-url", "http://127.0.0.1:9000/healthz"],
        *["--id", "main", "--meta", "model=large-v3", "--meta", "note=a=b"],
        SERVICE_REGISTRY_PORT=agent.port,
        SERVICE_REGISTRY_TOKEN="made-up",
    )
    assert outcome == (0, "registered: whisper on alpha (10.0.0.7:9000)\n", "")
    assert agent.asked == [
        Asked(
            "POST",
            "/api/services",
            "Bearer made-up",
            {
                "name": "whisper",
                "port": 9000,
                "host": "10.0.0.7",
                "mode": "standalone",
                "capabilities": ["stt", "gpu"],
                "health_url": "http://127.0.0.1:9000/healthz",
                "id": "main",
                "metadata": {"model": "large-v3", "note": "a=b"},
            },
        )
    ]


def test_register_leaves_out_what_was_not_said(run: Run, agent: ScriptedAgent):
    agent.answer = {"status": "registered", "service": {**INSTANCE, "port": 0}}
    outcome = run("register", "whisper", "--port", "0", SERVICE_REGISTRY_PORT=agent.port)
    assert outcome.out == "registered: whisper on alpha (no endpoint)\n"
    assert agent.asked == [Asked("POST", "/api/services", None, {"name": "whisper", "port": 0})]


def test_deregister_names_the_copy(run: Run, agent: ScriptedAgent):
    agent.answer = {"status": "unregistered", "name": "whisper"}
    arguments = ["deregister", "whisper", "--node", "alpha", "--id", "main"]
    outcome = run(*arguments, SERVICE_REGISTRY_PORT=agent.port)
    assert outcome == (0, "unregistered: whisper\n", "")
    assert [asked[:2] for asked in agent.asked] == [("DELETE", "/api/services/whisper?node=alpha&id=main")]


def test_a_registration_that_only_waits_in_the_outbox_says_so(run: Run, agent: ScriptedAgent):
    agent.status, agent.answer = 202, {"status": "registered", "service": INSTANCE}
    outcome = run("register", "whisper", "--port", "9000", SERVICE_REGISTRY_PORT=agent.port)
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "registered: whisper on alpha (10.0.0.7:9000)",
        "known on this node; the others are told as soon as NATS can be reached",
    ]


@pytest.mark.parametrize(("status", "waiting"), [(200, False), (202, True)])
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["register", "whisper", "--port", "1", "--json"], {"status": "registered", "service": INSTANCE}),
        (["deregister", "whisper", "--json"], {"status": "unregistered", "name": "whisper"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_as_json_a_write_is_the_agents_answer_and_whether_it_waits(
    run: Run,
    agent: ScriptedAgent,
    arguments: list[str],
    answer: dict[str, Any],
    status: int,
    *,
    waiting: bool,
):
    agent.status, agent.answer = status, answer
    outcome = run(*arguments, SERVICE_REGISTRY_PORT=agent.port)
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == {**answer, "waiting": waiting}


# Decreeing


@pytest.mark.parametrize(
    "arguments",
    [
        ["whisper", "--force"],
        ["a/b/c/d", "--force"],
        ["alpha/whisper", "--force", "--node", "alpha"],
        ["alpha/whisper", "--lift", "--id", "main"],
        ["whisper", "--reason", "why"],
    ],
    ids=" ".join,
)
def test_an_eviction_names_node_and_service_and_nothing_else_does(run: Run, arguments: list[str]):
    outcome = run("deregister", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Error: " in outcome.err


def test_an_eviction_of_what_can_be_no_name_is_one_line(run: Run):
    outcome = run("deregister", "al pha/whisper", "--force")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("pmoves-mesh: node: 'al pha' is not ")


@dataclass
class ScriptedOperator:
    """Takes every decree and remembers it, in the place of NATS."""

    decreed: list[Event] = field(default_factory=list)

    def run(self, config: Config, build: Build, _clock: object, _issuer: str | None = None) -> int:
        place = {"mesh": config.mesh, "node": "root", "incarnation": 1, "revision": 1}
        self.decreed.append(build(place))
        return 7


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedOperator]:
    scripted = ScriptedOperator()
    monkeypatch.setattr("pmoves_mesh.agent.operator.run", scripted.run)
    yield scripted
    structlog.reset_defaults()  # the command keeps the log off the terminal, as its process may


def test_an_eviction_says_whom_where_and_why(run: Run, agent: ScriptedAgent, operator: ScriptedOperator):
    agent.answer = STATUS
    port = {"SERVICE_REGISTRY_PORT": agent.port}
    outcome = run("deregister", "Alpha/whisper", "--force", "--reason", "it lies", **port)
    assert outcome == (0, "evicted: alpha/whisper (position 7)\n", "")
    outcome = run("deregister", "alpha/whisper/main", "--lift", "--json", **port)
    assert json.loads(outcome.out) == {
        "status": "lifted",
        "node": "alpha",
        "service": "whisper",
        "id": "main",
        "position": 7,
    }
    head = {"mesh": "pmoves-mesh", "node": "alpha", "incarnation": 1, "revision": 1}
    assert operator.decreed == [
        InstanceEvicted(**head, service="whisper", operator="root", reason="it lies"),
        InstanceEvicted(**head, service="whisper", id="main", operator="root", lifted=True),
    ]
    assert [asked[:2] for asked in agent.asked] == [("GET", "/api/status?min_position=7")] * 2


def test_a_decree_is_made_without_an_agent_too(run: Run, operator: ScriptedOperator, unused_tcp_port: int):
    outcome = run("deregister", "alpha/whisper", "--force", SERVICE_REGISTRY_PORT=unused_tcp_port)
    assert outcome == (0, "evicted: alpha/whisper (position 7, not heeded by an agent here yet)\n", "")
    assert run("deregister", "alpha/whisper", "--force", SERVICE_REGISTRY_PORT=0).code == 0
    assert len(operator.decreed) == 2


def test_a_decree_that_the_mesh_refuses_is_no_success(
    run: Run, agent: ScriptedAgent, operator: ScriptedOperator
):
    refusal = {"position": 7, "reason": "untrusted_issuer", "detail": "its CA was replaced"}
    agent.answer = {**STATUS, "registry": {**STATUS["registry"], "rejections": [refusal]}}
    outcome = run("deregister", "alpha/whisper", "--force", SERVICE_REGISTRY_PORT=agent.port)
    assert (outcome.code, outcome.out) == (1, "")
    assert "the mesh refuses what stands at position 7: its CA was replaced" in outcome.err
    assert operator.decreed


# Setting up


def test_init_writes_settings_that_change_nothing_until_edited(run: Run, tmp_path: Path):
    outcome = run("init")
    assert outcome.code == 0
    path = tmp_path / "env.shared"
    assert path.stat().st_mode & 0o777 == 0o600
    assert all(not line or line.startswith("#") for line in path.read_text().splitlines())
    assert "no agent is running" in run("down").err


def test_init_names_only_settings_that_exist_with_their_own_defaults(run: Run, tmp_path: Path):
    from pmoves_mesh.settings import SETTINGS  # noqa: PLC0415 - only this test compares them

    run("init")
    defaults = {setting.name: setting.default for setting in SETTINGS}
    lines = [
        line[1:] for line in (tmp_path / "env.shared").read_text().splitlines() if line[:2] not in {"", "# "}
    ]
    shown = dict(line.split("=", 1) for line in lines)
    examples = {"NATS_URL", "NODE_CAPABILITIES"}
    assert len(shown) > 8
    assert {name: value for name, value in shown.items() if name not in examples} == {
        name: defaults[name] for name in shown if name not in examples
    }
    assert examples <= defaults.keys()


def test_init_never_changes_settings_that_are_there(run: Run, tmp_path: Path):
    path = tmp_path / "env.shared"
    path.write_text("MESH_HOSTNAME=mine\n")
    outcome = run("init")
    assert outcome.code == 1
    assert "was left as it is" in outcome.err
    assert path.read_text() == "MESH_HOSTNAME=mine\n"


def test_version_is_that_of_the_package(run: Run):
    assert run("version") == (0, f"pmoves-mesh {__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_this_program(run: Run, shell: str):
    outcome = run("completion", shell)
    assert outcome.code == 0
    assert f"_PMOVES_MESH_COMPLETE={shell}_complete" in outcome.out


def test_a_shell_completes_the_names_of_commands():
    environment = {
        "PATH": os.environ["PATH"],
        "_PMOVES_MESH_COMPLETE": "bash_complete",
        "COMP_WORDS": "pmoves-mesh reg",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pmoves_mesh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["plain,register", "plain,registry"]


# The agent's life, as far as it goes without an agent


def test_down_without_an_agent_says_so(run: Run, tmp_path: Path):
    outcome = run("down")
    assert outcome == (1, "", f"pmoves-mesh: no agent is running with {tmp_path / 'data'}\n")


def test_down_with_a_stale_pid_file_says_so(run: Run, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agent.pid").write_text("1\n")
    outcome = run("down")
    assert outcome.code == 1
    assert outcome.err == (
        f"pmoves-mesh: no agent is running: {tmp_path / 'data' / 'agent.pid'} is stale, its process is gone\n"
    )


def test_up_on_a_taken_port_starts_nothing(run: Run, agent: ScriptedAgent, tmp_path: Path):
    outcome = run("up", SERVICE_REGISTRY_PORT=agent.port)
    assert outcome.code == 1
    assert outcome.err.startswith(f"pmoves-mesh: port {agent.port} is taken")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "data" / "agent.log").exists()


def test_up_with_a_data_folder_that_cannot_be_made_says_why(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    outcome = run("up", PMOVES_DATA_DIR=tmp_path / "file" / "data")
    assert outcome.code == 1
    assert f"PMOVES_DATA_DIR={tmp_path / 'file' / 'data'} cannot be made" in outcome.err
