"""Real agents for tests: processes of their own on one real nats-server, as hosts of one mesh.

Each agent has its own node name, data and HTTP port; they share a `tls` directory, as if the CA
had been copied from host to host.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from nats_server import NatsServer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "pmoves_mesh")
SETTING_PREFIXES = ("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_", "ANNOUNCE_", "TAILSCALE_")
LAST_SEEN = re.compile(r'"last_seen":"[^"]*"')
DEADLINE_S = 30.0
REQUEST_TIMEOUT_S = 20.0


def note(text: str) -> None:
    """Says what was measured: pytest shows it with -s, or when the test fails."""
    sys.stderr.write(f"{text}\n")


def eventually(condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> float:
    """Returns after how many seconds the condition held; fails the test if it does not in time."""
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > within_s:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.01)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Answer:
    """What an agent answered."""

    status: int
    headers: requests.structures.CaseInsensitiveDict[str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def position(self) -> int:
        return int(self.headers["X-Mesh-Position"])


class AgentProcess:
    """One agent; it may be started, killed and started again. Use it as a context manager.

    settings are environment variables beyond those that make it a host of its own.
    """

    def __init__(self, mesh_dir: Path, node: str, nats_url: str, **settings: str) -> None:
        self.node = node
        self.directory = mesh_dir / node
        self.data_dir = self.directory / "data"
        self.tls_dir = mesh_dir / "tls"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.url = ""
        self.settings = {"NATS_URL": nats_url, **settings}
        self._log_path = self.directory / "agent.log"
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def program(self) -> tuple[str, ...]:
        """The words that start the program where this host is."""
        return PROGRAM

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTING_PREFIXES)}
        own = {
            "PYTHONPATH": str(ROOT),
            "MESH_HOSTNAME": self.node,
            "SERVICE_REGISTRY_PORT": "0",
            "PMOVES_DNS_PORT": "0",
            "PMOVES_LEAF_PORT": "0",  # several hubs may run here at once
            "MESH_NETWORK_MODE": "nats",  # so that the host's own Tailscale is left alone
            "PMOVES_CONTAINERS": "off",  # other tests' containers are none of its affair
            "PMOVES_DATA_DIR": str(self.data_dir),
            "PMOVES_TLS_DIR": str(self.tls_dir),
        }
        return {**clean, **own, **self.settings}

    # Its life

    def start(self) -> Self:
        """Starts it and waits until it answers; it need not have joined the mesh."""
        self.launch()
        return self.started()

    def started(self) -> Self:
        """Waits until it answers after `launch`."""
        eventually(lambda: self._listens() or not self.is_running, f"{self.node} answers or ends")
        assert self.is_running, f"{self.node} ended at its start:\n{self.log[-4000:]}"
        return self

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        assert not self.is_running
        with self._log_path.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                [*self.program, "agent"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ready(self) -> Self:
        """Waits until it has joined the mesh and is current."""
        eventually(self.is_ready, f"{self.node} is ready; its log:\n{self.log[-4000:]}")
        return self

    def kill(self) -> None:
        """Ends it as a power failure would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops it where it stands."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> float:
        """Ends it in order; returns how many seconds that took."""
        begin = time.perf_counter()
        self._end(signal.SIGTERM)
        return time.perf_counter() - begin

    def restart(self) -> Self:
        """Starts it again and waits until it is current; whoever wants it gone ended it before."""
        return self.start().ready()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Waits until it ends by itself and returns its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{self.node} did not end within {timeout_s:g} s:\n{self.log[-4000:]}")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{self.node} did not end on {how.name}:\n{self.log[-4000:]}")

    def _listens(self) -> bool:
        started = re.findall(r'"http": "([^"]+)"', self.log)
        if started:
            self.url = started[-1]
        return bool(started)

    # What it says

    @property
    def log(self) -> str:
        """What it has said since its latest start."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode()

    @property
    def whole_log(self) -> str:
        """What it has said in all its runs."""
        return self._log_path.read_text()

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Returns the lines of the latest run that are about an event, and have these fields."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if {**fields, "event": event}.items() <= line.items()]

    def request(self, method: str, path: str, **options: Any) -> Answer:
        done = requests.request(method, self.url + path, timeout=REQUEST_TIMEOUT_S, **options)
        return Answer(done.status_code, done.headers, done.text)

    def get(self, path: str, **query: Any) -> Answer:
        return self.request("GET", path, params=query)

    def post(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("POST", path, params=query, json=body)

    def delete(self, path: str, **query: Any) -> Answer:
        return self.request("DELETE", path, params=query)

    def register(self, name: str, **fields: Any) -> Answer:
        """Registers a service that is taken; the answer is 200 or 202."""
        answer = self.post("/api/services", {"name": name, **fields})
        assert answer.status in {200, 202}, answer.text
        return answer

    def is_ready(self) -> bool:
        return self.get("/readyz").status == 200

    def knows(self, service: str) -> bool:
        return self.get(f"/api/services/{service}").status == 200

    @property
    def registry(self) -> dict[str, Any]:
        """The `registry` object of its status."""
        found: dict[str, Any] = self.get("/api/status").body["registry"]
        return found

    def names(self) -> list[str]:
        """Returns the name of every instance it lists."""
        return [one["name"] for one in self.get("/api/services").body["services"]]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the program with this agent's settings, and its true port."""
        environment = self.environment
        if self.url:
            environment["SERVICE_REGISTRY_PORT"] = self.url.rpartition(":")[2]
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.kill()


class Mesh:
    """A nats-server and the agents that use it; all of them end with the context."""

    def __init__(self, directory: Path, server: NatsServer) -> None:
        self.directory = directory
        self.server = server
        self.agents: dict[str, AgentProcess] = {}

    def agent(self, node: str, **settings: str) -> AgentProcess:
        """Returns a host that is not started yet."""
        self.agents[node] = AgentProcess(self.directory, node, self.server.url, **settings)
        return self.agents[node]

    def started(self, node: str, **settings: str) -> AgentProcess:
        """Returns an agent that has joined the mesh."""
        return self.agent(node, **settings).start().ready()

    def agree(self) -> None:
        """Waits until every running agent is current, and holds the same as the others.

        When a node was last seen depends on which of its repetitions an agent happened to hear.
        """
        running = [agent for agent in self.agents.values() if agent.is_running]

        def same() -> bool:
            if not all(agent.is_ready() and agent.registry["outbox"] == 0 for agent in running):
                return False
            return len({LAST_SEEN.sub("", agent.get("/api/services").text) for agent in running}) == 1

        eventually(same, f"{', '.join(agent.node for agent in running)} agree")

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for agent in self.agents.values():
            agent.kill()
        self.server.kill()


def mesh_in(directory: Path) -> Mesh:
    """Returns a mesh whose files are all in one folder; enter it to start its nats-server."""
    return Mesh(directory, NatsServer(directory))
