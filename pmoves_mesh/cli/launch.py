"""Starting the agent in the background, and stopping it: what `up` and `down` wait for."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

from pmoves_mesh.agent.pidfile import running_pid
from pmoves_mesh.cli.client import AgentClient
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.errors import StartError
from pmoves_mesh.server.child import ServerProcess
from pmoves_mesh.server.host import holder_of
from pmoves_mesh.server.leaf import DIRECTORY
from pmoves_mesh.server.settings import ServerFiles

READY_WITHIN_S: Final = 20.0
NATS_WITHIN_S: Final = 10.0
STOP_WITHIN_S: Final = 8.0
KILL_WITHIN_S: Final = 2.0
_POLL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 1.0
_PREFIX: Final = "pmoves-mesh: "


class Readiness(Enum):
    """How a started agent is doing."""

    READY = "ready"
    WAITING_FOR_NATS = "waiting"


def make_data_dir(path: Path) -> None:
    """Makes the folder that an agent keeps its data in, unless it is there.

    Raises:
        StartError: if it cannot be made, or not be written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"PMOVES_DATA_DIR={path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartError(f"PMOVES_DATA_DIR={path} is not writable")


def check_free(host: str, port: int) -> None:
    """Checks that the agent can listen on a port.

    Raises:
        StartError: if it is taken, by whom and what to set; or if the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(
                    f"SERVICE_REGISTRY_HOST={host} cannot be listened on, port {port}: {error.strerror}"
                ) from error
            raise StartError(
                f"port {port} is taken by {holder_of(port)}; free it, or set SERVICE_REGISTRY_PORT to another"
            ) from error


def start(config: Config) -> Readiness:
    """Starts the agent detached from this terminal and waits until it answers.

    Raises:
        StartError: if it ends, with its own last words, or does not answer in time (it is stopped then).
    """
    log_path = config.data_dir / "agent.log"
    with log_path.open("ab") as log:
        log_from = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "pmoves_mesh", "agent"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        readiness = _wait_until_ready(config, child)
    except KeyboardInterrupt:
        _end(child)
        raise
    if readiness is not None:
        return readiness
    if child.poll() is None:
        _end(child)
        raise StartError(f"the agent did not answer within {READY_WITHIN_S:.0f} s; see {log_path}")
    raise StartError(_last_words(log_path, log_from) or f"the agent ended at once; see {log_path}")


def stop(pid: int, pid_path: Path) -> bool:
    """Asks the agent to end and waits for it; kills it when it does not.

    Returns:
        Whether it ended by itself.

    Raises:
        StartError: if the agent belongs to another user, or outlives even a kill.
    """
    try:
        os.kill(pid, signal.SIGTERM)
        if _wait_for(lambda: running_pid(pid_path) != pid, STOP_WITHIN_S):
            return True
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True  # it ended between the look at its file and the signal
    except PermissionError as error:
        raise StartError(f"the agent (pid {pid}) belongs to another user") from error
    if not _wait_for(lambda: running_pid(pid_path) != pid, KILL_WITHIN_S):
        raise StartError(f"the agent (pid {pid}) cannot be killed; it hangs in the kernel")
    return False


def end_left_servers(data_dir: Path) -> list[int]:
    """Ends the nats-servers that an agent left when it was killed or crashed.

    Returns:
        The process numbers of those that ran.
    """
    found = [ServerFiles(data_dir / "nats"), ServerFiles(data_dir / DIRECTORY / "nats")]
    return [pid for pid in map(_end_left_server, found) if pid is not None]


def _end_left_server(files: ServerFiles) -> int | None:
    try:
        pid = int(files.pid.read_text())
    except (OSError, ValueError):
        return None
    process = ServerProcess(pid, str(files.config), None, SystemClock())
    if not process.alive():
        return None
    asyncio.run(process.end(STOP_WITHIN_S))
    files.pid.unlink(missing_ok=True)
    return pid


def _wait_until_ready(config: Config, child: subprocess.Popen[bytes]) -> Readiness | None:
    """Returns how the agent is doing, or None if it ended or never answered."""
    client = AgentClient(config, _PROBE_TIMEOUT_S)
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + READY_WITHIN_S
    answers_since_s: float | None = None
    while child.poll() is None and clock.monotonic_s() < deadline_s:
        if client.probe("/readyz") == 200:
            return Readiness.READY
        if answers_since_s is None and client.probe("/healthz") == 200:
            answers_since_s = clock.monotonic_s()
        if answers_since_s is not None and clock.monotonic_s() - answers_since_s >= NATS_WITHIN_S:
            return Readiness.WAITING_FOR_NATS
        time.sleep(_POLL_S)
    return Readiness.WAITING_FOR_NATS if child.poll() is None and answers_since_s is not None else None


def _wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + within_s
    while not condition():
        if clock.monotonic_s() >= deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _last_words(log_path: Path, log_from: int) -> str | None:
    """Returns the last error line that this run of the agent wrote, else its last line."""
    with log_path.open("rb") as log:
        log.seek(log_from)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    errors = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
    spoken = errors or [line for line in lines if line]
    return spoken[-1] if spoken else None
