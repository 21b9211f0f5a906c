"""Many watchers in one process: connections to `/api/watch`, read by one loop that costs next to nothing."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack

_SILENT_S = 60.0


class Watchers:
    """Many connections, each shown what there is; then they are told of changes.

    Args:
        stack: closes them.
        ports: of the agents that are watched, one for each connection.
        query: of the request, as `?name=rag`.
    """

    def __init__(self, stack: ExitStack, ports: Iterable[int], query: str = "") -> None:
        self._poll = stack.enter_context(select.epoll())
        self._sockets: dict[int, socket.socket] = {}
        request = f"GET /api/watch{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for port in ports:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            made.sendall(request)
            made.setblocking(False)
            self._sockets[made.fileno()] = made
            self._poll.register(made, select.EPOLLIN)
        self.read(b"event: snapshot", b"]}\n\n")

    def read(self, *marks: bytes) -> list[float]:
        """Reads until each connection has brought all the marks; returns when each had, the first first."""
        waiting = dict.fromkeys(self._sockets, b"")
        times = []
        while waiting:
            ready = self._poll.poll(_SILENT_S)
            assert ready, f"{len(waiting)} watchers were not told"
            for number, _ in ready:
                got = self._sockets[number].recv(65536)
                assert got, "a watcher was sent away"
                if number in waiting:
                    waiting[number] += got
                    if all(mark in waiting[number] for mark in marks):
                        del waiting[number]
                        times.append(time.perf_counter())
        return times
