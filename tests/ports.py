"""Ports of loopback that nobody else takes between the asking and the using.

They are below those that the kernel gives to connections on their way out, and each process of one run of the
tests has a part of them for itself.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from itertools import cycle
from typing import Final

_FIRST: Final = 10_000
_END: Final = 32_000


def _own() -> list[int]:
    """Returns the ports of this process, from a random one on: another run may be under way."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (_END - _FIRST) // count
    ports = range(_FIRST + number * size, _FIRST + (number + 1) * size)
    begin = random.randrange(size)
    return [*ports[begin:], *ports[:begin]]


_PORTS: Final = cycle(_own())


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a port on which nothing listens, neither by TCP nor by UDP."""
    for port in _PORTS:
        with suppress(OSError), socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as packets:
            stream.bind((host, port))
            packets.bind((host, port))
            return port
    raise AssertionError
