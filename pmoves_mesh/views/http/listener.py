"""Where the server listens, and what it makes of each connection: TLS or plain, let in or sent away.

On loopback it speaks plain HTTP, as programs of this host expect. Beyond, one port takes both: the
first byte of a connection tells TLS from plain HTTP, and only this host's own programs may go
without TLS, unless the operator allows it to all.

Source: RFC 8446 section 5.1 (a TLS connection begins with a handshake record, type 22).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from pmoves_mesh.errors import StartError
from pmoves_mesh.tls import server_context
from pmoves_mesh.views.http.answers import encode
from pmoves_mesh.views.http.limits import Bounds
from pmoves_mesh.views.http.peers import is_loopback, network_of
from pmoves_mesh.views.http.problems import PROBLEM_JSON, problem_of
from pmoves_mesh.views.http.protocol import HttpConnection

_log: Final = structlog.get_logger(__name__)

_TLS: Final = b"\x16"
BACKLOG: Final = 1024
_PAUSE_S: Final = 0.5
_FAREWELL_S: Final = 1.0
_FAREWELL_BYTES_MAX: Final = 64 * 1024
_TLS_END_S: Final = 1.0
_USE_TLS: Final = "this agent speaks TLS to other hosts: use https, or start it with PMOVES_INSECURE_HTTP=1"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """This node's identity, and the roots that client certificates are verified against; PEM files."""

    certificate: Path
    key: Path
    roots: Path


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """How the server may be reached from other hosts.

    Attributes:
        tls: what it speaks TLS with; None if it cannot.
        insecure: whether other hosts may also do without.
    """

    tls: TlsFiles | None = None
    insecure: bool = False


class MakeConnection(Protocol):
    """Whatever makes the protocol of a new connection."""

    def __call__(self, *, on_end: Callable[[], None] | None = None) -> HttpConnection:
        """Returns it; `on_end` is called when the connection is over."""
        ...


async def bind(host: str, port: int) -> list[socket.socket]:
    """Returns listening sockets for every address of `host`, all on one port.

    Args:
        host: an address or a name; `0.0.0.0` is every IPv4 address, `::` every address of both kinds.
        port: 0 picks a free one.

    Raises:
        StartError: if it cannot listen there.
    """
    bound: list[socket.socket] = []
    try:
        name = host.removeprefix("[").removesuffix("]")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            same = bound[0].getsockname()[1] if bound else port
            bound.append(_listening(family, (address[0], same, *address[2:])))
    except OSError as error:
        _close(bound)
        taken = error.errno == errno.EADDRINUSE
        problem = f"port {port} is taken" if taken else error.strerror or str(error)
        raise StartError(f"cannot listen on {host} port {port}: {problem}") from error
    return bound


def is_local(sockets: Sequence[socket.socket]) -> bool:
    """Returns whether only this host can reach these sockets."""
    return all(is_loopback(one.getsockname()[0]) for one in sockets)


class Listener:
    """Accepts connections until it is closed."""

    def __init__(
        self, sockets: Sequence[socket.socket], make: MakeConnection, exposure: Exposure, bounds: Bounds
    ) -> None:
        """Takes over sockets that listen.

        Raises:
            PkiError: if the files for TLS cannot be used.
        """
        self._sockets = sockets
        self._make = make
        self._insecure = exposure.insecure
        self._bounds = bounds
        self._hosts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = _context(exposure.tls)

    @property
    def connections(self) -> int:
        """How many connections other hosts have open."""
        return self._hosts.total()

    def start(self) -> None:
        """Begins to accept."""
        for listening in self._sockets:
            self._spawn(self._accept(listening))

    async def close(self) -> None:
        """Accepts no more, and drops what has not said what it wants."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _close(self._sockets)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                # Most often there are no file descriptors left, which passes.
                _log.warning("cannot accept a connection", detail=error.strerror)
                await asyncio.sleep(_PAUSE_S)
                continue
            host = network_of(address[0])
            if is_loopback(address[0]):
                self._spawn(self._serve(accepted, lambda: None, local=True))
            elif self.connections < self._bounds.connections_max and (
                self._hosts[host] < self._bounds.connections_per_host_max
            ):
                self._spawn(self._serve(accepted, self._counted(host), local=False))
            else:
                accepted.close()

    def _counted(self, host: str) -> Callable[[], None]:
        """Counts a connection, and returns what ends the count, once however often it is called."""
        self._hosts[host] += 1
        counted = [host]

        def release() -> None:
            if counted:
                self._hosts.subtract([counted.pop()])
                if not self._hosts[host]:
                    del self._hosts[host]

        return release

    async def _serve(self, accepted: socket.socket, release: Callable[[], None], *, local: bool) -> None:
        """Finds out what a client speaks, and hands its connection over to the server."""
        handed_over = False
        try:
            if not local and hasattr(socket, "TCP_USER_TIMEOUT"):
                stalled_ms = int(self._bounds.stalled_s * 1000)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)
            async with asyncio.timeout(self._bounds.first_byte_s):
                first = await _first_byte(accepted)
            context = self._context if first == _TLS else None
            if context is not None or (first not in {b"", _TLS} and (local or self._insecure)):
                handed_over = True  # a transport owns the socket from here on
                await self._hand_over(accepted, release, context)
            elif first not in {b"", _TLS}:
                await _send_away(accepted)
        except (OSError, TimeoutError):
            release()  # it broke off, it was too slow, or the handshake failed: all of them its own affair
        except BaseException:
            release()
            raise
        finally:
            if not handed_over:
                release()
                accepted.close()

    async def _hand_over(
        self, accepted: socket.socket, release: Callable[[], None], context: ssl.SSLContext | None
    ) -> None:
        deadlines: dict[str, float] = {}
        if context is not None:
            deadlines = {
                "ssl_handshake_timeout": self._bounds.handshake_s,
                "ssl_shutdown_timeout": _TLS_END_S,
            }
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self._make(on_end=release), accepted, ssl=context, **deadlines
        )


def _context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """Returns what TLS is spoken with: a client may show a certificate, which is then verified."""
    if files is None:
        return None
    return server_context(files.certificate, files.key, files.roots, require_client=False)


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The wildcard takes IPv4 as well, whatever the system's default is.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()


async def _first_byte(connection: socket.socket) -> bytes:
    """Returns the first byte that a client sends, and leaves it there; empty if it sends none and ends."""
    loop = asyncio.get_running_loop()
    while True:
        with suppress(BlockingIOError):
            return connection.recv(1, socket.MSG_PEEK)
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)


async def _send_away(connection: socket.socket) -> None:
    """Tells a client in plain HTTP that it must not speak plain HTTP, and ends the connection."""
    loop = asyncio.get_running_loop()
    body = encode(problem_of(403, _USE_TLS))
    head = (
        f"HTTP/1.1 403 Forbidden\r\nContent-Type: {PROBLEM_JSON}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    async with asyncio.timeout(_FAREWELL_S):
        await loop.sock_sendall(connection, head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        # What is left unread when a socket is closed resets the connection, and the answer is lost with it.
        unread = _FAREWELL_BYTES_MAX
        while unread > 0 and (got := await loop.sock_recv(connection, 4096)):
            unread -= len(got)
