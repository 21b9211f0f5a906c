"""The gRPC probe: one call of `grpc.health.v1.Health/Check`, over HTTP/2 without TLS.

It speaks as much of HTTP/2 as one unary call takes: the preface, one request, and whatever frames
come back until the stream ends. The answer is in the frame with the message. The header blocks
are not decoded: they would only say in other words why there is no message.

Source: gRPC Health Checking Protocol; gRPC over HTTP/2; RFC 9113; RFC 7541 section 6.2.2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from pmoves_mesh.agent.health.reach import connect, not_probed, place_problem, unconnected
from pmoves_mesh.core.check import GrpcCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.target import canonical

FRAME_BYTES_MAX: Final = 16 * 1024
ANSWER_BYTES_MAX: Final = 4 * 1024

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PATH: Final = "/grpc.health.v1.Health/Check"
_STREAM: Final = 1
_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_FRAMES_MAX: Final = 100
_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class _Kind(IntEnum):
    """The kinds of frames that matter here; others are skipped. Source: RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7


class _Frame(NamedTuple):
    """One frame of HTTP/2."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class _NotHttp2Error(Exception):
    """What comes back is not what HTTP/2 allows."""


class GrpcProbe:
    """Asks instances whether they serve."""

    def __init__(self, own_hosts: Iterable[str]) -> None:
        """Takes the names and addresses of this node."""
        self._own_hosts = frozenset(map(canonical, own_hosts))

    async def __call__(self, instance: Instance, check: GrpcCheck) -> Finding:
        """Returns what the instance answers; whoever calls sets the time that it may take."""
        port = check.port or instance.port
        if problem := place_problem(instance, port, self._own_hosts):
            return not_probed(problem)
        try:
            connection = await connect(instance.host, port)
        except OSError as error:
            return unconnected(error)
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=FRAME_BYTES_MAX)
        except BaseException:
            connection.close()
            raise
        try:
            writer.write(_request(instance.host, port, check.service))
            return _judge(await _answer(reader, writer))
        except _NotHttp2Error:
            return Finding(passed=False, output="what it answers is not gRPC")
        except (OSError, asyncio.IncompleteReadError):
            return Finding(passed=False, output="broke off its answer")
        finally:
            writer.close()


def _judge(message: bytes | None) -> Finding:
    """Returns what a `HealthCheckResponse` means, or that there is none."""
    if message is None:
        # Its status would be UNIMPLEMENTED, NOT_FOUND for a service that is not known, or some fault.
        return Finding(
            passed=False, output="its gRPC server does not answer about the health of that service"
        )
    status = _STATUSES.get(_status(message), "no status that is known")
    return Finding(passed=status == "SERVING", output=f"gRPC {status}")


def _request(host: str, port: int, service: str) -> bytes:
    """Returns everything that the client says to have its question answered."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    literal = b"".join(
        _literal(field, value)
        for field, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", _PATH),
            (":authority", f"{host}:{port}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )
    return b"".join(
        (
            _PREFACE,
            _framed(_Kind.SETTINGS, 0, 0, b""),
            _framed(_Kind.HEADERS, _END_HEADERS, _STREAM, literal),
            _framed(_Kind.DATA, _END_STREAM, _STREAM, struct.pack(">BI", 0, len(message)) + message),
        )
    )


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """Returns the first message of the answer, or None if it ends without one."""
    data = bytearray()
    for number in range(_FRAMES_MAX):
        frame = await _frame(reader)
        if number == 0 and frame.kind != _Kind.SETTINGS:
            raise _NotHttp2Error
        if frame.kind in {_Kind.SETTINGS, _Kind.PING} and not frame.flags & _ACK:
            echo = frame.payload if frame.kind == _Kind.PING else b""
            writer.write(_framed(frame.kind, _ACK, 0, echo))
        if frame.kind == _Kind.GOAWAY:
            return None
        if frame.stream != _STREAM:
            continue
        if frame.kind == _Kind.DATA:
            data += _unpadded(frame)
            if len(data) > ANSWER_BYTES_MAX:
                raise _NotHttp2Error
            if len(data) >= 5 and len(data) >= 5 + (size := int.from_bytes(data[1:5])):
                return None if data[0] else bytes(data[5 : 5 + size])
        ends = frame.kind in {_Kind.DATA, _Kind.HEADERS} and frame.flags & _END_STREAM
        if ends or frame.kind == _Kind.RST_STREAM:
            return None
    return None


async def _frame(reader: asyncio.StreamReader) -> _Frame:
    head = await reader.readexactly(9)
    size = int.from_bytes(head[:3])
    if size > FRAME_BYTES_MAX:
        raise _NotHttp2Error
    stream = int.from_bytes(head[5:]) & 0x7FFF_FFFF
    return _Frame(head[3], head[4], stream, await reader.readexactly(size))


def _framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _unpadded(frame: _Frame) -> bytes:
    if not frame.flags & _PADDED:
        return frame.payload
    return frame.payload[1 : len(frame.payload) - frame.payload[0]] if frame.payload else b""


def _literal(name: str, value: str) -> bytes:
    """Returns a header field as a literal without indexing, its texts as they are."""
    return b"\x00" + _string(name.encode()) + _string(value.encode())


def _string(text: bytes) -> bytes:
    """Returns a text with its length, whose prefix has seven bits. Source: RFC 7541 sections 5.1 and 5.2."""
    if len(text) < 0x7F:
        return bytes((len(text),)) + text
    return b"\x7f" + _varint(len(text) - 0x7F) + text


def _varint(value: int) -> bytes:
    """Returns a number seven bits at a time, the lowest first; protocol buffers and HPACK agree on it."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _status(message: bytes) -> int:
    """Returns field 1 of a `HealthCheckResponse`, which is left out where it is 0."""
    return message[1] if len(message) > 1 and message[0] == 0x08 else 0
