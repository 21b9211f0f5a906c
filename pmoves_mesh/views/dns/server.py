"""The DNS server: its sockets, and how it comes to have them when another program had them first."""

from __future__ import annotations

import asyncio
import errno
import random
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from typing import Any, Final

import structlog

from pmoves_mesh.config import Config
from pmoves_mesh.errors import StartError
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.dns import datagrams
from pmoves_mesh.views.dns.datagrams import Datagrams
from pmoves_mesh.views.dns.holder import holder_of
from pmoves_mesh.views.dns.responder import Observe, Responder
from pmoves_mesh.views.dns.streams import StreamBounds, StreamConnection
from pmoves_mesh.views.dns.wire import Ttls

_log: Final = structlog.get_logger(__name__)

RETRY_S: Final = 5.0

_BACKLOG: Final = 128
_FREE_PORT_TRIES: Final = 16
_USUAL: Final = StreamBounds()
_random: Final = secrets.SystemRandom()


class DnsServer:
    """Answers DNS for as long as it runs.

    A port that another program has is tried again and again, since DNS is one way in of several:
    without it the agent still answers by the others.
    """

    def __init__(
        self, config: Config, replica: Replica, clock: Clock, observe: Observe = lambda *_: None
    ) -> None:
        """Takes what is answered from.

        Args:
            config: where it listens, which is where HTTP does, and for how long answers may be remembered.
            replica: the registry.
            clock: the time.
            observe: told of each message: the name of its RCODE, or `dropped`, and the seconds that it took.
        """
        self._host = config.http_host
        self._port = config.dns_port
        self._clock = clock
        # An order needs no secrecy, and the system's own source would cost more than the rest of an answer.
        rng = random.Random(_random.getrandbits(64))  # noqa: S311 - as above
        ttls = Ttls(config.dns_ttl_s, config.dns_negative_ttl_s)
        self._responder = Responder(replica, clock, node=config.node, ttls=ttls, rng=rng, observe=observe)
        self._problem = ""

    def warnings(self) -> list[str]:
        """Returns why DNS is not answered, in one line; nothing where it is."""
        return [self._problem] if self._problem else []

    async def run(self) -> None:
        """Answers until it is cancelled."""
        while True:
            try:
                async with serving(self._responder, self._host, self._port) as port:
                    self._problem = ""
                    _log.info("DNS is answered", host=self._host, port=port)
                    await asyncio.get_running_loop().create_future()
            except StartError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    _log.warning("DNS is not answered", detail=self._problem)
            await self._clock.sleep(RETRY_S)


@asynccontextmanager
async def serving(
    responder: Responder, host: str, port: int, bounds: StreamBounds = _USUAL
) -> AsyncIterator[int]:
    """Answers while the context lasts, and yields the port.

    Args:
        responder: answers.
        host: an address or a name to listen on.
        port: of UDP and of TCP; 0 picks one that is free for both.
        bounds: what a client may take over TCP.

    Raises:
        StartError: if it cannot listen there.
    """
    loop = asyncio.get_running_loop()
    live: set[StreamConnection] = set()
    async with AsyncExitStack() as stack:
        pairs = await _bind(host, port)
        for _, listening in pairs:
            stack.callback(listening.close)
        for bound, _ in pairs:
            answering = Datagrams(bound, responder)
            stack.callback(answering.close)
            answering.start()
        for _, listening in pairs:
            server = await loop.create_server(
                lambda: StreamConnection(responder, bounds, live), sock=listening, backlog=_BACKLOG
            )
            stack.callback(server.close)
        stack.callback(_abort, live)
        yield pairs[0][0].getsockname()[1]


def _abort(live: set[StreamConnection]) -> None:
    for connection in tuple(live):
        connection.abort()


async def _bind(host: str, port: int) -> list[tuple[socket.socket, socket.socket]]:
    """Returns for each address of `host` a socket for UDP and one for TCP, all on one port."""
    name = host.removeprefix("[").removesuffix("]")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(f"cannot answer DNS on {host}: {error.strerror or error}") from error
    addresses = [(family, address) for family, *_, address in dict.fromkeys(found)]
    for _ in range(_FREE_PORT_TRIES - 1 if not port else 0):
        with suppress(OSError):
            return _pairs(addresses, port)
    try:
        return _pairs(addresses, port)
    except OSError as error:
        problem = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            by = await asyncio.to_thread(holder_of, port)
            problem = f"port {port} is taken by {by}" if by else f"port {port} is taken"
        raise StartError(f"cannot answer DNS on {host} port {port}: {problem}") from error


def _pairs(addresses: Sequence[tuple[int, Any]], port: int) -> list[tuple[socket.socket, socket.socket]]:
    bound: list[tuple[socket.socket, socket.socket]] = []
    try:
        for family, address in addresses:
            chosen = bound[0][0].getsockname()[1] if bound else port
            bound.append(_pair(family, address, chosen))
    except BaseException:
        for one in chain.from_iterable(bound):
            one.close()
        raise
    return bound


def _pair(family: int, address: Any, port: int) -> tuple[socket.socket, socket.socket]:
    bound = datagrams.bind(family, (address[0], port, *address[2:]))
    try:
        same = (address[0], bound.getsockname()[1], *address[2:])
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            listening.bind(same)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except BaseException:
        bound.close()
        raise
    listening.setblocking(False)
    return bound, listening
