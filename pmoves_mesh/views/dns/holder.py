"""Which program has a port, as far as this one may see.

Source: proc(5): `/proc/net/udp`, `/proc/net/tcp`, `/proc/<pid>/fd`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TABLES: Final = ("udp", "udp6", "tcp", "tcp6")
_LISTENING: Final = {"07", "0A"}
"""The states of a socket for datagrams, and of one that accepts connections."""


def holder_of(port: int) -> str:
    """Returns `name (pid N)` of a program that has a port; empty if that cannot be seen.

    It may look at every process of this host, so call it in a thread.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in _PROC.glob("[0-9]*") if wanted else ():
        with suppress(OSError):
            if any(str(one.readlink()) in wanted for one in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _inodes(port: int) -> Iterator[str]:
    for table in _TABLES:
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[3] in _LISTENING:
                    yield fields[9]
