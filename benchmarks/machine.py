"""What the figures were taken on: the machine, what else kept it busy, and the versions of all programs."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pmoves_mesh.server.binary import locate

_PROGRAMS = {
    "nginx": ("nginx", "-v"),
    "etcd": ("etcd", "--version"),
    "Consul": ("consul", "version"),
    "wrk": ("wrk", "-v"),
    "dnsperf": ("dnsperf", "-h"),
}
_LIBRARIES = ("uvloop", "msgspec", "cryptography", "aiohttp", "nats-py")
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)*")


def machine() -> str:
    """Returns in words what this runs on."""
    model = "processor unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {pages / 2**30:.0f} GiB, {platform.system()} {platform.release()}"


def versions() -> Mapping[str, str]:
    """Returns the version of each program and library that takes part, as far as it is there."""
    found = {"Python": platform.python_version()}
    found |= {name: metadata.version(name) for name in _LIBRARIES}
    commands: dict[str, tuple[str, str]] = {
        **_PROGRAMS,
        "nats-server": (str(locate(os.environ).path), "--version"),
    }
    for name, (program, option) in commands.items():
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        if path is None:
            continue
        said = subprocess.run([path, option], capture_output=True, text=True, check=False)
        version = _VERSION.search(said.stdout + said.stderr)
        found[name] = version.group() if version else "unknown"
    return found


class Others:
    """What kept the machine busy beside the benchmark, since this was made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._before_s = _busy_s() - _own_s()
        self._load = os.getloadavg()[0]

    def told(self) -> str:
        """Returns it in words; whatever of our own still runs counts as another's."""
        others = (_busy_s() - _own_s() - self._before_s) / (time.monotonic() - self._began_s)
        return f"load {self._load:.1f} at the start; others took {max(0.0, others):.2f} cores meanwhile"


def _busy_s() -> float:
    """Returns the seconds that all cores were busy.

    Source: proc(5), /proc/stat.
    """
    user, nice, system, _, _, interrupts, soft, stolen, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)
