"""The HTTP API beyond loopback: TLS on the same port, identities as the right to write, renewal in place."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from certificates import FileAuthority
from http_support import (
    DEADLINE_S,
    HOST,
    NODE,
    Caller,
    client_of,
    exposed,
    files_of,
    on_both_loops,
    own_address,
    served,
)
from structlog.testing import capture_logs

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import PkiError, StartError
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.listener import Exposure

TOKEN = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "tls")


@on_both_loops
async def test_another_host_reads_over_tls_and_writes_with_the_token_alone(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca, token=TOKEN) as here:
        stranger = here.caller()
        assert (await stranger.ask("GET", "/api/services")).status == 200
        refused = await stranger.register("whisper")
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "a client certificate of the mesh, or its token" in refused.body["detail"]
        assert (await stranger.register("whisper", headers=BEARER)).status == 200


@on_both_loops
async def test_another_host_that_speaks_plain_http_is_told_to_speak_tls(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca, token=TOKEN) as here:
        for method, body in (("GET", b""), ("POST", b"x" * 100_000)):
            answer = await here.plain().ask(method, "/api/services", data=body, headers=BEARER)
            assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json")
            assert "https" in answer.body["detail"]
            assert answer.headers["Connection"] == "close"


@on_both_loops
async def test_programs_of_this_host_speak_plain_http_or_tls_on_the_same_port(
    tmp_path: Path, ca: FileAuthority
):
    async with exposed(tmp_path, ca) as here:
        for local in (here.plain(HOST), Caller(here.port, HOST, client_of(ca))):
            assert (await local.register("whisper")).status == 200
            assert (await local.register("whisper", headers={"Host": "rebound.example"})).status == 403


@pytest.mark.parametrize(
    ("kind", "name", "allow", "service", "status"),
    [
        ("node", "beta", (), "whisper", 200),
        ("node", "beta", ("rag-*",), "whisper", 403),
        ("node", "beta", ("whisper*",), "whisper", 200),
        ("operator", "root", (), "whisper", 200),
        ("service", "whisper", (), "whisper", 200),
        ("service", "whisper", (), "rag", 403),
        ("service", "whisper", (), "whisper-2", 403),
        ("service", "whisper", ("whisper-*",), "whisper-2", 200),
        ("service", "whisper", ("whisper-*",), "whisper", 200),
        ("service", "whisper", ("whisper-*",), "rag", 403),
    ],
)
async def test_a_certificate_lets_write_what_its_bearer_may(
    tmp_path: Path,
    ca: FileAuthority,
    kind: str,
    name: str,
    allow: tuple[str, ...],
    service: str,
    status: int,
):
    async with exposed(tmp_path, ca) as here:
        writer = here.caller(ca.identity(name, kind, allow=allow))
        assert (await writer.register(service)).status == status
        deregistered = [(await writer.ask("DELETE", f"/api/services/{service}")).status for _ in range(2)]
        assert deregistered == ([200, 404] if status == 200 else [403, 403])


async def test_a_revoked_certificate_writes_no_more_not_even_on_an_open_connection(
    tmp_path: Path, ca: FileAuthority
):
    beta = ca.identity("beta", "node")
    async with exposed(tmp_path, ca, token=TOKEN) as here, aiohttp.ClientSession() as session:
        register = partial(
            here.caller(beta).ask_in, session, "POST", "/api/services", json={"name": "whisper", "port": 1}
        )
        assert (await register()).status == 200
        here.mesh.replica.registry.revoked[beta.fingerprint] = 1
        refused = await register()
        assert (refused.status, "was revoked" in refused.body["detail"]) == (403, True)
        assert (await register(headers=BEARER)).status == 200


async def test_a_certificate_whose_time_is_over_writes_no_more_though_its_connection_is_open(
    tmp_path: Path, ca: FileAuthority
):
    class Later(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + 2 * 86400 * 1000

    async with exposed(tmp_path, ca, clock=Later()) as here:
        refused = await here.caller(ca.identity("beta", "node")).register("whisper")
        assert (refused.status, "does not hold" in refused.body["detail"]) == (403, True)


async def test_a_certificate_whose_ca_was_dropped_writes_no_more(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca) as here:
        caller = here.caller(ca.identity("beta", "node"))
        assert (await caller.register("whisper")).status == 200
        authority = here.mesh.authority
        authority.trust.rotate([authority.root], [(ca.root, 1)])
        refused = await caller.register("whisper")
        assert (refused.status, "no longer holds" in refused.body["detail"]) == (403, True)


@on_both_loops
async def test_a_certificate_of_another_ca_or_one_that_ended_ends_the_handshake(
    tmp_path: Path, ca: FileAuthority
):
    async with exposed(tmp_path, ca) as here:
        for unknown in (
            FileAuthority(tmp_path / "foreign").identity("beta", "node"),
            ca.identity("beta", "node", ended=True),
        ):
            with pytest.raises(aiohttp.ClientError):
                await here.caller(unknown).ask("GET", "/api/services")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": NODE}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "rebound.example", "Origin": "https://rebound.example"}, 403),
        ({"Host": NODE, "Origin": "https://evil.example"}, 403),
        ({"Host": NODE, "Origin": f"http://{NODE}"}, 403),
        ({"Host": NODE, "Origin": f"https://{NODE}"}, 200),
        ({"Host": "proxy.example", **BEARER}, 200),
        ({"Host": "proxy.example", "Origin": "https://evil.example", **BEARER}, 403),
    ],
)
async def test_a_web_page_cannot_use_the_certificate_that_a_visitors_browser_holds(
    tmp_path: Path, ca: FileAuthority, headers: dict[str, str], status: int
):
    async with exposed(tmp_path, ca, token=TOKEN) as here:
        browser = here.caller(ca.identity("root", "operator"))
        assert (await browser.register("whisper", headers=headers)).status == status


@on_both_loops
async def test_the_nodes_certificate_is_renewed_without_a_restart_or_a_dropped_connection(
    tmp_path: Path, ca: FileAuthority
):
    async def ask(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
        reader, writer = stream
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert b" 200 OK" in await reader.readuntil(b"}")
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown

    async with exposed(tmp_path, ca) as here:
        connect = partial(asyncio.open_connection, own_address(), here.port, ssl=client_of(ca))
        one = await connect()
        before = await ask(one)
        ca.identity(NODE, "node")
        two = await connect()
        assert await ask(two) != before
        assert await ask(one) == before
        for _, writer in (one, two):
            writer.close()


@on_both_loops
async def test_the_wildcard_of_ipv6_takes_ipv4_as_well(tmp_path: Path, ca: FileAuthority):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with exposed(tmp_path, ca, host="::", token=TOKEN) as here:
        assert (await here.plain("127.0.0.1").register("whisper")).status == 200
        assert (await here.plain("[::1]").register("whisper")).status == 200
        assert (await here.caller().register("whisper")).status == 401
        assert (await here.plain().ask("GET", "/healthz")).status == 403


async def test_beyond_loopback_it_does_not_start_without_tls(tmp_path: Path):
    problem = r"^SERVICE_REGISTRY_HOST=0\.0\.0\.0 [^\n]+PMOVES_INSECURE_HTTP=1$"
    async with served(tmp_path) as mesh:
        with pytest.raises(StartError, match=problem):
            async with serving(mesh.facade, "0.0.0.0", 0):
                pytest.fail("it listens to other hosts without TLS")


async def test_beyond_loopback_it_does_not_start_without_its_certificate(tmp_path: Path, ca: FileAuthority):
    own = ca.identity(NODE, "node")
    own.certificate.unlink()
    async with served(tmp_path) as mesh:
        with pytest.raises(PkiError, match=re.escape(str(own.certificate))):
            async with serving(mesh.facade, "0.0.0.0", 0, exposure=files_of(own)):
                pytest.fail("it listens without its certificate")


@on_both_loops
async def test_insecure_http_is_warned_of_and_lets_only_the_token_write(tmp_path: Path, ca: FileAuthority):
    with capture_logs() as logged:
        async with exposed(tmp_path, ca, exposure=Exposure(insecure=True), token=TOKEN) as here:
            assert (await here.plain().ask("GET", "/api/services")).status == 200
            assert (await here.plain().register("whisper")).status == 401
            assert (await here.plain().register("whisper", headers=BEARER)).status == 200
            with pytest.raises(aiohttp.ClientError):
                await here.caller().ask("GET", "/healthz")
    warnings = [entry["event"] for entry in logged if entry["log_level"] == "warning"]
    assert warnings == ["PMOVES_INSECURE_HTTP=1: other hosts use the HTTP API without TLS"]


@on_both_loops
async def test_its_end_takes_at_most_two_seconds_whatever_other_hosts_are_doing(
    tmp_path: Path, ca: FileAuthority
):
    clock, address = SystemClock(), own_address()
    own = ca.identity(NODE, "node")
    async with served(tmp_path) as mesh:
        before = asyncio.all_tasks()
        async with serving(mesh.facade, "0.0.0.0", 0, exposure=files_of(own)) as port:
            silent = await asyncio.open_connection(address, port)
            shaking = await asyncio.open_connection(address, port)
            shaking[1].write(b"\x16\x03\x01")
            idle = await asyncio.open_connection(address, port, ssl=client_of(ca))
            waiting = await asyncio.open_connection(address, port, ssl=client_of(ca))
            waiting[1].write(b"GET /api/nodes?min_position=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await Caller(port, address, client_of(ca)).ask("GET", "/healthz")).status == 200
            begun_s = clock.monotonic_s()
        assert clock.monotonic_s() - begun_s < 2.0
        for reader, writer in (silent, shaking, idle, waiting):
            async with asyncio.timeout(DEADLINE_S):
                with suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
        assert asyncio.all_tasks() <= before
        with pytest.raises(OSError, match=r"(?i)connect"):
            await asyncio.open_connection(address, port)
