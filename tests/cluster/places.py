"""Where programs of these tests run: on hosts of their own, or all on this machine's loopback.

A thread that enters a host makes its sockets there, so that the tests reach what listens on that
host's loopback as a program of that host would.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from namespaces import Namespace
from ports import free_port

_CLONE_NEWNET: Final = 0x4000_0000
_NAMESPACES: Final = Path("/var/run/netns")
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """One host of the tests.

    Attributes:
        host: its network namespace; None for this machine's own network.
    """

    host: Namespace | None = None

    @property
    def address(self) -> str:
        return "127.0.0.1" if self.host is None else self.host.address

    @property
    def inside(self) -> tuple[str, ...]:
        """The words that run a program here."""
        return () if self.host is None else self.host.inside

    def port(self, usual: int) -> int:
        """Returns the usual port where the host has all ports for itself, else a free one."""
        return free_port() if self.host is None else usual

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Lets this thread, and threads that it starts meanwhile, make their sockets here."""
        if self.host is None:
            yield
            return
        with Path("/proc/thread-self/ns/net").open("rb") as own:
            with (_NAMESPACES / self.host.name).open("rb") as other:
                _enter(other.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
