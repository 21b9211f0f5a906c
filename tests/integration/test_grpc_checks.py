"""gRPC checks: against a real gRPC server, and against what only looks like one."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from builders import instance
from http_support import HOST
from probe_targets import grpc_server

from pmoves_mesh.agent.health.grpc_probe import FRAME_BYTES_MAX, GrpcProbe
from pmoves_mesh.agent.health.probes import ask
from pmoves_mesh.core.check import GrpcCheck

TIMEOUT_S = 10.0
NO_HEALTH = "its gRPC server does not answer about the health of that service"
SETTINGS, PING, GOAWAY, RST = 4, 6, 7, 3


async def found(port: int, service: str = "", timeout_s: float = TIMEOUT_S) -> tuple[bool | None, str]:
    record = instance(host=HOST, port=port)
    finding = await ask(GrpcProbe(()), record, GrpcCheck(service=service), timeout_s)
    return finding.passed, finding.output


# A real server


async def test_a_real_grpc_server_says_which_of_its_services_serve():
    with grpc_server() as port:
        assert await found(port) == (True, "gRPC SERVING")
        assert await found(port, "rag.Search") == (True, "gRPC SERVING")
        assert await found(port, "rag.Index") == (False, "gRPC NOT_SERVING")
        assert (await found(port, "rag.Nothing"))[0] is False
    assert await found(port) == (False, "refused")


async def test_a_real_grpc_server_without_the_health_service_fails():
    with grpc_server("--without-health") as port:
        assert await found(port) == (False, NO_HEALTH)


# What only looks like one


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(body: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(body)) + body


HELLO = frame(SETTINGS, 0, 0)
SERVING = message(b"\x08\x01")


@asynccontextmanager
async def answers(data: bytes, *, end: bool = True) -> AsyncIterator[tuple[int, Callable[[], bytes]]]:
    """Runs a server that says one thing to whoever sends it a request, and tells what it was sent."""
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.extend(await reader.readuntil(b"/grpc.health.v1.Health/Check"))
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
            while chunk := await reader.read(4096):
                heard.extend(chunk)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lambda: bytes(heard)


@pytest.mark.parametrize(
    ("data", "passed", "output"),
    [
        (HELLO + frame(0, 0, 1, SERVING), True, "gRPC SERVING"),
        (HELLO + frame(0, 0, 1, SERVING[:3]) + frame(0, 1, 1, SERVING[3:]), True, "gRPC SERVING"),
        (HELLO + frame(0, 8, 1, b"\x03" + SERVING + b"\0\0\0"), True, "gRPC SERVING"),
        (HELLO + frame(99, 0, 7, b"x") + frame(0, 0, 1, SERVING), True, "gRPC SERVING"),
        (HELLO + frame(0, 0, 3, SERVING) + frame(1, 5, 1), False, NO_HEALTH),
        (HELLO + frame(0, 0, 1, message(b"\x08\x02")), False, "gRPC NOT_SERVING"),
        (HELLO + frame(0, 0, 1, message(b"\x08\x7f")), False, "gRPC no status that is known"),
        (HELLO + frame(0, 0, 1, message(b"")), False, "gRPC UNKNOWN"),
        (HELLO + frame(0, 0, 1, message(b"\x08\x01", flag=1)), False, NO_HEALTH),
        (HELLO + frame(1, 5, 1), False, NO_HEALTH),
        (HELLO + frame(RST, 0, 1, bytes(4)), False, NO_HEALTH),
        (HELLO + frame(GOAWAY, 0, 0, bytes(8)), False, NO_HEALTH),
        (HELLO + frame(0, 0, 1, message(bytes(8000))), False, "what it answers is not gRPC"),
        (HELLO + frame(0, 0, 1)[:3] + bytes(200), False, "broke off its answer"),
        (struct.pack(">I", FRAME_BYTES_MAX + 1)[1:] + bytes(6), False, "what it answers is not gRPC"),
        (frame(0, 0, 1, SERVING), False, "what it answers is not gRPC"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "what it answers is not gRPC"),
        (b"", False, "broke off its answer"),
        (HELLO + frame(PING, 1, 0, bytes(8)) * 200, False, NO_HEALTH),
    ],
)
async def test_only_a_message_that_says_serving_passes(data: bytes, passed: bool, output: str):
    async with answers(data) as (port, _):
        assert await found(port) == (passed, output)


async def test_settings_and_pings_are_acknowledged_as_http2_wants_it():
    data = HELLO + frame(PING, 0, 0, b"12345678") + frame(0, 0, 1, SERVING)
    async with answers(data, end=False) as (port, heard):
        assert await found(port) == (True, "gRPC SERVING")
        assert heard().startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            while frame(SETTINGS, 1, 0) not in heard() or frame(PING, 1, 0, b"12345678") not in heard():
                await asyncio.sleep(0.01)


async def test_a_server_that_never_answers_runs_out_of_its_time():
    async with answers(HELLO, end=False) as (port, _):
        assert await found(port, timeout_s=0.3) == (False, "timed out after 0.3 s")
