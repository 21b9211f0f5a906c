"""A bad cable as a program, for kernels without netem: it hands on each frame late, or never.

    python wire.py PORT_OF_THE_HOST PORT_OF_THE_BRIDGE DELAY_MS LOSS

Only what comes from the host is delayed and lost, as with `tc netem` on its interface.

Source: packet(7) (PACKET_VNET_HDR), linux/virtio_net.h.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final

_ALL_PROTOCOLS: Final = 3
_PACKET: Final = 263
_VNET_HEADER: Final = 15
_FRAME_BYTES_MAX: Final = 1 << 17
_WAITING_MAX: Final = 100_000


def _end_of(port: str) -> socket.socket:
    """Returns a socket of all frames on a port, each with what its checksum and segments still need."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_PACKET, _VNET_HEADER, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    end.bind((port, _ALL_PROTOCOLS))
    end.setblocking(False)
    return end


def _hand_on(host: socket.socket, bridge: socket.socket, delay_s: float, loss: float) -> None:
    waiting: deque[tuple[float, bytes]] = deque(maxlen=_WAITING_MAX)
    dice = random.Random(1)
    while True:
        left_s = max(waiting[0][0] - time.perf_counter(), 0) if waiting else None
        ready, _, _ = select.select([host, bridge], [], [], left_s)
        if bridge in ready and (frame := _received(bridge)):
            _send(host, frame)
        if host in ready and (frame := _received(host)) and dice.random() >= loss:
            waiting.append((time.perf_counter() + delay_s, frame))
        while waiting and waiting[0][0] <= time.perf_counter():
            _send(bridge, waiting.popleft()[1])


def _received(end: socket.socket) -> bytes:
    """Returns a frame that came in; nothing for one that went out."""
    with suppress(BlockingIOError):
        frame, (_, _, kind, *_) = end.recvfrom(_FRAME_BYTES_MAX)
        return b"" if kind == socket.PACKET_OUTGOING else frame
    return b""


def _send(end: socket.socket, frame: bytes) -> None:
    with suppress(OSError):  # a full queue, or an end that is gone, loses a frame: that is what it is for
        end.send(frame)


if __name__ == "__main__":
    ends = _end_of(sys.argv[1]), _end_of(sys.argv[2])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _hand_on(*ends, int(sys.argv[3]) / 1000, float(sys.argv[4]))
