"""How probes reach an instance: only where `core.target` lets them, and with words of ours for what fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Collection, Sequence
from typing import Any, Final

from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.target import address_problem, canonical, host_problem

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_LOCALHOST: Final = "localhost"


def not_probed(problem: str) -> Finding:
    """Returns what is found of an instance that must not, or cannot, be asked."""
    return Finding(passed=None, output=f"not probed: {problem}")


def unconnected(error: OSError) -> Finding:
    """Returns what it means that a connection was not made, or broke."""
    if isinstance(error, socket.gaierror):
        return Finding(passed=False, output="its host has no address", answered=False)
    if error.errno == errno.ECONNREFUSED:
        return Finding(passed=False, output="refused")
    if error.errno == errno.EPERM:
        return not_probed("its host leads to an address that must not be asked")
    if error.errno in _UNREACHABLE:
        return Finding(passed=False, output="no route to its host", answered=False)
    if isinstance(error, ConnectionError):
        return Finding(passed=False, output="broke off the connection")
    code = errno.errorcode.get(error.errno or 0, "no reason given")
    return Finding(passed=False, output=f"cannot connect ({code})", answered=False)


def allowed_socket(info: AddressInfo) -> socket.socket:
    """Returns a socket for an address, once it is known which one is really connected to.

    Raises:
        PermissionError: if no probe may ask it, whatever name led there.
    """
    family, kind, protocol, _, address = info
    if problem := address_problem(address[0]):
        raise PermissionError(errno.EPERM, problem)
    return socket.socket(family, kind, protocol)


def place_problem(instance: Instance, port: int, own_hosts: Collection[str]) -> str:
    """Returns why an instance must not be asked at a port of its own host, or nothing if it may."""
    if not port:
        return "it has no port"
    return host_problem(instance.host.strip("[]"), {*own_hosts, canonical(instance.host.strip("[]"))})


async def connect(host: str, port: int) -> socket.socket:
    """Returns a connection to the first address of a host that takes one; whoever calls sets the time.

    Raises:
        OSError: if none takes one, or none may be asked.
    """
    loop = asyncio.get_running_loop()
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for info in await addresses(host, port):
        connection = None
        try:
            connection = allowed_socket(info)
            connection.setblocking(False)
            await loop.sock_connect(connection, info[4])
        except OSError as error:
            failure = error
            if connection is not None:
                connection.close()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        else:
            return connection
    raise failure


async def addresses(host: str, port: int) -> Sequence[AddressInfo]:
    """Returns the addresses of a host, at least one; the one name that needs no name service asks none.

    Raises:
        OSError: if it has none, or no host can be called that.
    """
    name = host.strip("[]")
    if canonical(name) == _LOCALHOST:
        # Source: RFC 6761, section 6.3.
        kind, tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [
            (socket.AF_INET, kind, tcp, "", ("127.0.0.1", port)),
            (socket.AF_INET6, kind, tcp, "", ("::1", port, 0, 0)),
        ]
    try:
        return await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        # An empty label, or one that is too long, reaches no resolver, and is no error of the system's.
        raise socket.gaierror(socket.EAI_NONAME, "no host can be called that") from None
