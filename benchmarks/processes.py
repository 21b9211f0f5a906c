"""The processes of a benchmark: each ends with its context, and may be given a core of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY_S = 60.0
_END_S = 5.0
_PORTS = (10_000, 32_000)
_POLL_S = 0.005
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Returns a port that nobody listens on, and that the kernel gives to no connection on its way out."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 - any will do
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    """Returns whether somebody listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def seconds_until(condition: Callable[[], bool], within_s: float = READY_S) -> float:
    """Returns after how many seconds a condition holds.

    Raises:
        RuntimeError: if it does not in time.
    """
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > within_s:
            raise RuntimeError(f"not within {within_s:g} s")
        time.sleep(_POLL_S)
    return time.perf_counter() - began


@contextmanager
def started(
    command: Sequence[str | Path], folder: Path, port: int, within_s: float = READY_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program while the context lasts, from when it listens on its port.

    Raises:
        RuntimeError: if it does not listen in time.
    """
    log = folder / f"{Path(command[0]).name}-{port}.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        seconds_until(lambda: process.poll() is not None or listens(port), within_s)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {log.read_text()[-300:]}")
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, with force if it must be."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_descendants() -> None:
    """Ends what this process does not know that it started: it may be stopped at any moment."""
    for pid in _family(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def processor_s(pid: int) -> float:
    """Returns the seconds of processor that a process has used.

    Source: proc(5), /proc/pid/stat.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int:
    """Returns the memory that a process uses.

    Source: proc(5), /proc/pid/statm.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def two_cores() -> bool:
    """Returns whether there is a core for what is measured, and another for what asks it."""
    return len(os.sched_getaffinity(0)) > 1


@contextmanager
def alone(measured: Iterable[int]) -> Iterator[None]:
    """Gives what is measured a core that nothing else of the benchmark uses, while the context lasts.

    Args:
        measured: process ids of servers, which are asked in turn, never at once. They keep that core.
    """
    cores = os.sched_getaffinity(0)
    if not two_cores():
        yield
        return
    own = min(cores)
    # Children inherit where they may run, so whatever is started in between stays away from it as well.
    for pid in _family(os.getpid()):
        _pin(pid, cores - {own})
    for pid in measured:
        for one in _family(pid):
            _pin(one, {own})
    try:
        yield
    finally:
        for pid in _family(os.getpid()):
            _pin(pid, cores)


def _family(pid: int) -> list[int]:
    """Returns a process and its descendants: a program may have workers."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, ())
    return found


def _pin(pid: int, cores: set[int]) -> None:
    with contextlib.suppress(OSError):  # a thread or process may end at any moment
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)
