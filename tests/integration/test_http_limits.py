"""What one client may take of the HTTP server: its rate, its connections, and the time it lets pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from certificates import FileAuthority
from http_support import (
    DEADLINE_S,
    HOST,
    Exposed,
    Served,
    client_of,
    eventually,
    exposed,
    on_both_loops,
    own_address,
    served,
)

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.limits import Bounds
from pmoves_mesh.views.http.listener import Exposure

SHORT_S = 0.2
TOKEN = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class StillClock(SystemClock):
    """No second passes, so that nothing is granted again."""

    def monotonic_s(self) -> float:
        return 1000.0


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "tls")


@asynccontextmanager
async def connected(address: str, port: int, **options: object) -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection(address, port, **options)  # type: ignore[arg-type]
    try:
        yield reader, writer
    finally:
        writer.close()


async def rest_of(stream: Stream) -> bytes:
    """Returns what still comes until the server ends the connection."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await stream[0].read()
        except ConnectionError:
            return b""


async def answered(stream: Stream) -> None:
    """Asks something, and waits for the whole answer."""
    stream[1].write(REQUEST)
    async with asyncio.timeout(DEADLINE_S):
        assert b" 200 OK" in await stream[0].readuntil(b"}")


async def test_another_host_that_writes_too_often_is_told_when_to_come_back(
    tmp_path: Path, ca: FileAuthority
):
    bounds = Bounds(writes_per_s=2)
    async with exposed(tmp_path, ca, token=TOKEN, bounds=bounds, clock=StillClock()) as here:
        statuses = [(await here.caller().register("whisper", headers=BEARER)).status for _ in range(4)]
        assert statuses == [200, 200, 200, 200]
        refused = await here.caller().register("whisper", headers=BEARER)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.body["detail"].startswith("too many writes")
        assert (await here.caller().ask("GET", "/api/services")).status == 200
        assert (await here.plain(HOST).register("whisper")).status == 200


async def test_a_wrong_token_costs_as_much_as_a_right_one(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca, token=TOKEN, bounds=Bounds(writes_per_s=1), clock=StillClock()) as here:
        guesses = [{"Authorization": f"Bearer guess {number}"} for number in range(3)]
        statuses = [(await here.caller().register("whisper", headers=guess)).status for guess in guesses]
        assert statuses == [401, 401, 429]


async def test_another_host_that_reads_too_often_is_told_to_wait(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca, bounds=Bounds(reads_per_s=1), clock=StillClock()) as here:
        statuses = [(await here.caller().ask("GET", "/healthz")).status for _ in range(3)]
        assert statuses == [200, 200, 429]


@asynccontextmanager
async def local(directory: Path, **bounds: float) -> AsyncIterator[tuple[Served, int]]:
    async with (
        served(directory) as mesh,
        serving(mesh.facade, HOST, 0, bounds=Bounds(**bounds)) as port,  # type: ignore[arg-type]
    ):
        yield mesh, port


@on_both_loops
async def test_headers_that_come_byte_by_byte_are_not_waited_for(tmp_path: Path):
    async with local(tmp_path, header_s=SHORT_S) as (_, port), connected(HOST, port) as stream:
        answer = asyncio.create_task(rest_of(stream))
        for byte in REQUEST[:-2]:
            if answer.done():
                break
            stream[1].write(bytes([byte]))
            await asyncio.sleep(SHORT_S / 10)
        assert (await answer).startswith(b"HTTP/1.1 408 ")


@on_both_loops
async def test_a_second_request_on_a_connection_has_as_long_as_the_first(tmp_path: Path):
    async with local(tmp_path, header_s=SHORT_S) as (_, port), connected(HOST, port) as stream:
        await answered(stream)
        begun_s = SystemClock().monotonic_s()
        stream[1].write(REQUEST[:10])
        assert (await rest_of(stream)).startswith(b"HTTP/1.1 408 ")
        assert SystemClock().monotonic_s() - begun_s < 10 * SHORT_S


@on_both_loops
async def test_a_connection_that_is_idle_between_requests_stays_open(tmp_path: Path):
    async with local(tmp_path, header_s=SHORT_S) as (_, port), connected(HOST, port) as stream:
        await answered(stream)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * SHORT_S):
                await stream[0].read(1)
        await answered(stream)


@on_both_loops
async def test_a_body_may_take_longer_than_headers_may(tmp_path: Path):
    body = b'{"name": "whisper", "port": 9000}'
    async with local(tmp_path, header_s=SHORT_S) as (mesh, port), connected(HOST, port) as stream:
        head = b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        stream[1].write(head)
        for start in range(0, len(body), 4):
            await asyncio.sleep(SHORT_S / 4)
            stream[1].write(body[start : start + 4])
        async with asyncio.timeout(DEADLINE_S):
            assert b" 200 OK" in await stream[0].readuntil(b"\r\n\r\n")
        assert len(mesh.replica.registry) == 1


@on_both_loops
async def test_a_connection_on_which_nothing_is_ever_asked_ends(tmp_path: Path, ca: FileAuthority):
    bounds = Bounds(first_byte_s=SHORT_S, handshake_s=SHORT_S, header_s=SHORT_S)
    async with exposed(tmp_path, ca, bounds=bounds) as here:
        address = own_address()
        async with connected(address, here.port) as silent, connected(address, here.port) as shaking:
            shaking[1].write(b"\x16\x03\x01")
            assert await rest_of(silent) == await rest_of(shaking) == b""
        async with connected(address, here.port, ssl=client_of(ca)) as idle:
            assert await rest_of(idle) == b""
        async with connected(HOST, here.port) as silent:
            assert await rest_of(silent) == b""


async def is_served(here: Exposed) -> bool:
    """Whether another host gets an answer."""
    try:
        return (await here.caller().ask("GET", "/healthz")).status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize("bounds", [Bounds(connections_max=2), Bounds(connections_per_host_max=2)])
@on_both_loops
async def test_other_hosts_have_so_many_connections_and_this_host_is_served_regardless(
    tmp_path: Path, ca: FileAuthority, bounds: Bounds
):
    async with exposed(tmp_path, ca, bounds=bounds) as here:
        address = own_address()
        async with connected(address, here.port), connected(address, here.port, ssl=client_of(ca)) as tls:
            await answered(tls)
            assert not await is_served(here)
            assert (await here.plain(HOST).ask("GET", "/healthz")).status == 200
        await eventually(lambda: is_served(here), "a place is free again")


@on_both_loops
async def test_a_handshake_that_fails_gives_its_place_back(tmp_path: Path, ca: FileAuthority):
    foreign = FileAuthority(tmp_path / "foreign").identity("beta", "node")
    async with exposed(tmp_path, ca, bounds=Bounds(connections_max=1)) as here:
        for _ in range(3):
            with pytest.raises(aiohttp.ClientError):
                await here.caller(foreign).ask("GET", "/healthz")
            with pytest.raises((aiohttp.ClientError, AssertionError)):
                assert (await here.plain().ask("GET", "/healthz")).status == 200
        await eventually(lambda: is_served(here), "a place is free again")


@on_both_loops
async def test_a_client_that_takes_nothing_of_its_answers_is_cut_off(tmp_path: Path, ca: FileAuthority):
    bounds = Bounds(connections_max=1, stalled_s=SHORT_S)
    async with exposed(tmp_path, ca, exposure=Exposure(insecure=True), bounds=bounds) as here:

        async def is_free() -> bool:
            try:
                return (await here.plain().ask("GET", "/healthz")).status == 200
            except aiohttp.ClientError:
                return False

        async with connected(own_address(), here.port, limit=1) as stream:
            stream[0]._transport.pause_reading()  # type: ignore[attr-defined]
            stream[1].write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
            await eventually(is_free, "the client that does not read has lost its place")
