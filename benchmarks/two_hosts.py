"""Two agents on a real nats-server: how soon what is registered at one is seen at the other."""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

REGISTRATIONS = 300
READY_S = 20.0


def run() -> Iterator[str]:
    """Yields lines with the figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nats_port = free_port()
        first = stack.enter_context(agent(folder, "one", {"PMOVES_NATS_PORT": str(nats_port)}))
        second = stack.enter_context(agent(folder, "two", {"NATS_URL": f"nats://127.0.0.1:{nats_port}"}))
        answered, visible = zip(
            *(_register(first, second, index) for index in range(REGISTRATIONS)), strict=True
        )
    yield _line("POST to answer (durable, in the stream, applied)", answered)
    yield _line("POST to visible on the other agent", visible)


def _register(first: int, second: int, index: int) -> tuple[float, float]:
    body = msgspec.json.encode({"name": f"service-{index}", "host": "127.0.0.1", "port": 9000 + index})
    writer = http.client.HTTPConnection("127.0.0.1", first)
    reader = http.client.HTTPConnection("127.0.0.1", second)
    writer.connect()
    reader.connect()
    began = time.perf_counter()
    writer.request("POST", "/api/services", body)
    assert writer.getresponse().read()
    answered = time.perf_counter()
    while True:
        reader.request("GET", f"/api/services/service-{index}")
        response = reader.getresponse()
        response.read()
        if response.status == 200:
            break
    seen = time.perf_counter()
    writer.close()
    reader.close()
    return (answered - began) * 1000, (seen - began) * 1000


def _line(what: str, figures: tuple[float, ...]) -> str:
    ordered = sorted(figures)
    p99 = ordered[int(len(ordered) * 0.99)]
    return f"{what:<52} median {statistics.median(ordered):7.2f} ms   p99 {p99:7.2f} ms   of {len(ordered)}"


def free_port() -> int:
    """Returns a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def agent(folder: Path, name: str, settings: dict[str, str]) -> Iterator[int]:
    """Runs an agent while the context lasts, with its files in `folder`, and yields its HTTP port."""
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "PMOVES_"))},
        "MESH_HOSTNAME": name,
        "SERVICE_REGISTRY_PORT": str(port),
        "PMOVES_DATA_DIR": str(folder / name),
        "PMOVES_TLS_DIR": str(folder / "tls"),
        **settings,
    }
    log = (folder / f"{name}.log").open("wb")
    command = [sys.executable, "-m", "pmoves_mesh", "agent"]
    with log, subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process:
        try:
            _wait_ready(port, process, folder / f"{name}.log")
            yield port
        finally:
            process.terminate()


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise RuntimeError(f"the agent is not ready: {log.read_text()[-500:]}")
