"""DNS over UDP: a socket that is emptied whenever something is in it, and answered from as it was asked.

Where one socket has every address of the host, an answer leaves from the address that was asked:
clients drop what comes from another.

Source: RFC 1035 section 4.2.1; ip(7) and ipv6(7) for `IP_PKTINFO`; RFC 3542 section 4.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from pmoves_mesh.config import is_loopback
from pmoves_mesh.views.dns.responder import Responder
from pmoves_mesh.views.dns.wire import ACCEPTED_BYTES_MAX

LOCAL_BYTES_MAX: Final = 4096
"""How long an answer to a program of this host may be: it crosses no network that could cut it."""

_QUESTION_BYTES_MAX: Final = 4096
_AT_ONCE: Final = 64
_BUFFER_BYTES: Final = 1 << 20
_ANCILLARY_BYTES: Final = 64
_PKTINFO_V4: Final = 8
_V4: Final = struct.Struct("=I4s4s")
_V6: Final = struct.Struct("=16sI")
_REMEMBERED_MAX: Final = 4096

_Ancillary = list[tuple[int, int, bytes]]


class Datagrams:
    """Answers what comes to one socket."""

    def __init__(self, bound: socket.socket, responder: Responder) -> None:
        """Takes over a socket that is bound and does not block."""
        self._socket = bound
        self._responder = responder
        self._told = _tell_destination(bound)

    def start(self) -> None:
        """Begins to answer."""
        asyncio.get_running_loop().add_reader(self._socket, self._empty)

    def close(self) -> None:
        """Answers no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _empty(self) -> None:
        """Answers what has come, but not so much at a time that other work would wait."""
        for _ in range(_AT_ONCE):
            try:
                data, ancillary, _, peer = self._socket.recvmsg(_QUESTION_BYTES_MAX, self._told)
            except OSError:
                return  # nothing is left
            bytes_max = LOCAL_BYTES_MAX if _is_local(peer[0]) else ACCEPTED_BYTES_MAX
            answer = self._responder.datagram(data, bytes_max)
            if answer is not None:
                self._send(answer, ancillary, peer)

    def _send(self, answer: bytes, ancillary: _Ancillary, peer: Any) -> None:
        try:
            if self._told:
                self._socket.sendmsg([answer], [_source(item) for item in ancillary], 0, peer)
            else:
                self._socket.sendto(answer, peer)
        except OSError:
            pass  # the network is full or the peer is out of reach: whoever still wants it asks again


def _tell_destination(bound: socket.socket) -> int:
    """Lets a socket that has every address tell which was asked; returns how many bytes that takes."""
    if sys.platform != "linux" or not ip_address(bound.getsockname()[0].partition("%")[0]).is_unspecified:
        return 0
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IP, _PKTINFO_V4, 1)
    return _ANCILLARY_BYTES


def _source(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """Turns word of where a question went into word of where its answer is to come from."""
    level, kind, data = item
    if level == socket.IPPROTO_IP:
        _, local, _ = _V4.unpack_from(data)
        return level, kind, _V4.pack(0, local, bytes(4))
    address, interface = _V6.unpack_from(data)
    linked = ip_address(address).is_link_local
    return level, kind, _V6.pack(address, interface if linked else 0)


@lru_cache(_REMEMBERED_MAX)
def _is_local(address: str) -> bool:
    return is_loopback(address)


def bind(family: int, address: Any) -> socket.socket:
    """Returns a socket for datagrams.

    Raises:
        OSError: if that address cannot be had.
    """
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        made.bind(address)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made
