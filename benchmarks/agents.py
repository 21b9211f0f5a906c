"""Agents to measure: processes of their own on one nats-server, all on this machine."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.processes import READY_S, ROOT, free_port, seconds_until
from pmoves_mesh.server.binary import locate


class Server:
    """A nats-server that tells how much it has carried."""

    def __init__(self, folder: Path, *, sync: str = "always") -> None:
        self.port = free_port()
        self._sync = sync
        self.url = f"nats://127.0.0.1:{self.port}"
        self._monitor = free_port()
        self._folder = folder / "nats"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, on what it held before."""
        config = self._folder / "nats.conf"
        store = f'jetstream {{ store_dir: "{self._folder}/store", sync_interval: {self._sync} }}'
        config.write_text(f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self._monitor}\n{store}\n")
        command = [str(locate(os.environ).path), "-c", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        seconds_until(self._answers)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends it as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def carried(self) -> tuple[int, int]:
        """Returns how many messages, and how many bytes, came in and went out since its start."""
        found = msgspec.json.decode(self._ask("/varz"), type=dict[str, object])
        counts = {name: found[name] for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")}
        numbers = msgspec.convert(counts, dict[str, int])
        return numbers["in_msgs"] + numbers["out_msgs"], numbers["in_bytes"] + numbers["out_bytes"]

    def _ask(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._monitor, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return bool(self._ask("/varz"))
        except OSError:
            return False


class Agent:
    """One agent, which may be killed, stopped and started again."""

    def __init__(self, folder: Path, name: str, settings: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "PMOVES_"))}
        self._folder = folder
        self._environment = {
            **clean,
            "PYTHONPATH": str(ROOT),
            "MESH_HOSTNAME": name,
            "SERVICE_REGISTRY_PORT": str(self.port),
            "PMOVES_DATA_DIR": str(folder / name),
            "PMOVES_TLS_DIR": str(folder / "tls"),
            "PMOVES_DNS_PORT": "0",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def data(self) -> Path:
        """Where it keeps its database."""
        return self._folder / self.name

    def start(self) -> None:
        """Starts it, and waits until it has joined the mesh."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Starts it."""
        command = [sys.executable, "-m", "pmoves_mesh", "agent"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Waits until it has joined the mesh, and knows what the mesh knows."""
        try:
            seconds_until(lambda: self.status("/readyz") == 200, within_s)
        except RuntimeError:
            raise RuntimeError(f"the agent is not ready: {self.log.read_text()[-500:]}") from None

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it a signal that ends it, and waits until it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()

    def register(self, service: str, **more: object) -> None:
        """Registers a service on it."""
        body = {"name": service, "host": "127.0.0.1", "port": 9000, **more}
        self.ask("POST", "/api/services", msgspec.json.encode(body))

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Returns what it answers.

        Raises:
            RuntimeError: if that is no success.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status not in {200, 202}:
            raise RuntimeError(f"{method} {path}: {answer.decode()[:200]}")
        return answer

    def knows(self, service: str) -> bool:
        """Returns whether it would send a client to a service."""
        return self.status(f"/api/services/{service}") == 200

    def losses(self) -> int:
        """Returns how many losses it has heard of in its life."""
        return self.log.read_text().count('"node lost"')

    def status(self, path: str) -> int:
        """Returns the status of an answer; 0 if there is none."""
        return status(self.port, path)


def status(port: int, path: str) -> int:
    """Returns the status that an agent answers with; 0 if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextmanager
def mesh(folder: Path, *names: str, **settings: str) -> Iterator[tuple[Server, list[Agent]]]:
    """Gives a server, and agents on it that run, each with a service `of-<name>` that all others know."""
    server = Server(folder)
    agents = [Agent(folder, name, {"NATS_URL": server.url, **settings}) for name in names]
    try:
        server.start()
        for agent in agents:
            agent.start()
            agent.register(f"of-{agent.name}")
        seconds_until(lambda: all(one.knows(f"of-{name}") for one in agents for name in names))
        yield server, agents
    finally:
        for agent in agents:
            agent.end()
        server.kill()
