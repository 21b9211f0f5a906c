"""Who is at a TCP port of this host: nobody, a NATS server of some name, or another program."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from pmoves_mesh.errors import StartError
from pmoves_mesh.server.settings import HOST

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # TCP_LISTEN, as /proc/net/tcp writes states (Linux, include/net/tcp_states.h)
_ANSWER_S: Final = 1.0


class _Info(msgspec.Struct):
    """What of a NATS server's greeting matters here."""

    server_name: str = ""


def check_free(port: int, host: str = HOST) -> None:
    """Checks that nobody listens on a port, which tells more than a server's own failure would.

    Raises:
        StartError: if it is taken or cannot be used; says by whom and what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise StartError(
                f"{host} is no address of this host ({error.strerror}): set PMOVES_NATS_HOST to one, "
                "or to 0.0.0.0 for all"
            ) from None
        if error.errno != errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} cannot be used ({error.strerror}): set another PMOVES_NATS_PORT"
            ) from None
        raise StartError(
            f"port {port} on {host} is taken by {holder_of(port)}: end it, or set PMOVES_NATS_PORT "
            "to a free port, or, if it is a NATS server of yours, NATS_URL to it"
        ) from None


def stranger_at(port: int, host: str, pid: int | None) -> str:
    """Returns who keeps a process from listening on a port, itself left out; empty if nobody does.

    Args:
        port: to listen on.
        host: an address of this host.
        pid: the process, if it runs.
    """
    try:
        check_free(port, host)
    except StartError:
        holder = holder_of(port)
        return "" if pid is not None and holder.endswith(f"(pid {pid})") else holder
    return ""


async def name_at(port: int, host: str = HOST) -> str | None:
    """Returns the name by which the NATS server at a port greets, or None if there is none.

    One that takes TLS alone greets in plain text before it.

    Source: docs.nats.io, "Client Protocol", INFO.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                greeting = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
        return msgspec.json.decode(greeting.removeprefix(b"INFO "), type=_Info).server_name
    except (OSError, ValueError, TimeoutError):
        return None


def holder_of(port: int) -> str:
    """Returns who listens on a port, such as `nginx (pid 812)`, as far as this user may see it."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for directory in _PROC.glob("[0-9]*/fd") if wanted else ():
        try:
            if any(str(link.readlink()) in wanted for link in directory.iterdir()):
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
