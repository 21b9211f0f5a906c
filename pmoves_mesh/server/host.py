"""What this host knows about processes and ports: read from /proc, where there is one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # TCP_LISTEN, as /proc/net/tcp writes states (Linux, include/net/tcp_states.h)
_ANSWER_S: Final = 5.0


def command_of(pid: int) -> str:
    """Returns the command line of a running process, its words separated by spaces; empty if there is none."""
    if _PROC.joinpath("self").exists():
        try:
            return (
                _PROC.joinpath(str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            return ""
    try:
        listed = subprocess.run(
            ["/bin/ps", "-p", str(pid), "-o", "command="],
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout.strip()


def holder_of(port: int) -> str:
    """Returns who listens on a TCP port, such as `nginx (pid 812)`, as far as this user may see it."""
    inodes = set(_listening_inodes(port))
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for directory in _PROC.glob("[0-9]*/fd"):
        try:
            if any(os.readlink(link) in wanted for link in directory.iterdir()):
                name = directory.with_name("comm").read_text(errors="replace").strip()
                return f"{name} (pid {directory.parent.name})"
        except OSError:
            continue  # the process ended meanwhile, or belongs to another user
    return "another program"


def _listening_inodes(port: int) -> Iterator[str]:
    """Yields the socket inodes that listen on `port`.

    Source: proc_net_tcp.txt of the Linux kernel's documentation.
    """
    for table in ("tcp", "tcp6"):
        try:
            lines = _PROC.joinpath("net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
