"""The HTTP probe against real servers: what it finds, and what it can't be made to do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from builders import MESH, instance
from cryptography import x509
from ports import free_port
from probe_targets import HOST, Target, says, target

from pmoves_mesh.agent.health import http_probe
from pmoves_mesh.agent.health.http_probe import BODY_BYTES_MAX, HttpProbe
from pmoves_mesh.agent.health.probes import ask
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.check import HttpCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.pki import keystore

TIMEOUT_S = 5.0
HASTY_S = 0.3
SECRET = "swordfish"


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    async with HttpProbe({"alpha", "10.0.0.1"}) as made:
        yield made


def at(url: str, host: str = HOST) -> Instance:
    return instance(host=host, health_url=url)


# What it finds


@pytest.mark.parametrize(
    ("status", "passed"), [(200, True), (204, True), (299, True), (304, False), (404, False)]
)
async def test_a_status_from_200_to_299_passes_and_no_other(probe: HttpProbe, status: int, passed: bool):
    async with target(says(status, "")) as server:
        assert await probe(at(server.url)) == Finding(passed=passed, output=f"HTTP {status}")


async def test_nothing_of_what_the_service_said_is_handed_on(probe: HttpProbe):
    async with target(says(503, SECRET, X_Secret=SECRET, Set_Cookie=f"a={SECRET}")) as server:
        named = at(f"http://localhost:{server.port}/")
        first, second = await probe(named), await probe(named)
    assert first == second == Finding(passed=False, output="HTTP 503")
    assert SECRET not in "".join(server.asked), "a cookie is not given back"


async def test_a_port_where_nobody_listens_is_refused(probe: HttpProbe):
    assert await probe(at(f"http://{HOST}:{free_port()}/")) == Finding(passed=False, output="refused")


async def test_localhost_is_this_host_without_asking_any_name_service(
    probe: HttpProbe, monkeypatch: pytest.MonkeyPatch
):
    async def away(*_: object, **__: object) -> None:
        raise OSError("no name service")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", away)
    async with target(says(200)) as server:
        assert (await probe(at(f"http://localhost:{server.port}/"))).passed
        named = at(f"http://nas.example:{server.port}/", host="nas.example")
        assert await probe(named) == Finding(passed=False, output="its host has no address", answered=False)


async def test_the_credentials_of_a_url_are_shown_to_its_service_and_to_nobody_else(
    probe: HttpProbe, capsys: pytest.CaptureFixture[str]
):
    port = free_port()
    async with target(says(302, "", Location=f"http://{HOST}:{port}/")) as server:
        url = f"http://user:{SECRET}@{HOST}:{server.port}/"
        finding = await ask(probe, at(url), HttpCheck(), TIMEOUT_S)
    assert "Authorization: Basic" in server.asked[0]
    assert finding == Finding(passed=False, output="HTTP 302: redirects to another port")
    assert SECRET not in "".join(capsys.readouterr())


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_server_is_not_followed(probe: HttpProbe, status: int):
    async with target(says(200)) as other, target(says(status, "", Location=other.url)) as server:
        finding = await probe(at(server.url))
        assert finding == Finding(passed=False, output=f"HTTP {status}: redirects to another port")
        assert not other.asked


@pytest.mark.parametrize(
    ("location", "other"),
    [
        ("http://169.254.169.254/latest/meta-data/", "host"),
        ("//evil.example/", "host"),
        ("https://{place}/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("http://{place}@evil.example/", "host"),
        ("http://localhost:{port}/", "host"),
    ],
)
async def test_a_redirect_that_leaves_the_place_that_was_asked_fails(
    probe: HttpProbe, location: str, other: str
):
    async def redirect(here: Target, writer: asyncio.StreamWriter) -> None:
        to = location.format(place=f"{HOST}:{here.port}", port=here.port)
        await says(302, "", Location=to)(here, writer)

    async with target(redirect) as server:
        assert (await probe(at(server.url))).output == f"HTTP 302: redirects to another {other}"
        assert len(server.asked) == 1


@pytest.mark.parametrize(("redirects", "output"), [(3, "HTTP 200"), (4, "more than 3 redirects")])
async def test_a_redirect_within_the_service_is_followed_three_times_and_no_more(
    probe: HttpProbe, redirects: int, output: str
):
    async def redirect(here: Target, writer: asyncio.StreamWriter) -> None:
        left = redirects - len(here.asked)
        await (says(302, "", Location=f"/{left}") if left >= 0 else says(200))(here, writer)

    async with target(redirect) as server:
        assert (await probe(at(server.url))).output == output
        assert len(server.asked) == 4


async def test_a_redirect_to_what_is_no_url_is_a_failure_of_the_service(probe: HttpProbe):
    async with target(says(302, "", Location="http://[")) as server:
        finding = await probe(at(server.url))
        assert finding == Finding(passed=False, output="HTTP 302: redirects to no URL")


# Servers that want more than an answer


async def test_of_a_body_of_10_mib_no_more_than_64_kib_are_read(
    probe: HttpProbe, monkeypatch: pytest.MonkeyPatch
):
    whole = 10 * 1024 * 1024
    read = 0
    take = aiohttp.StreamReader.read

    async def count(self: aiohttp.StreamReader, n: int = -1) -> bytes:
        nonlocal read
        chunk = await take(self, n)
        read += len(chunk)
        return chunk

    monkeypatch.setattr(aiohttp.StreamReader, "read", count)

    async def pour(here: Target, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {whole}\r\n\r\n".encode())
        for _ in range(whole // 65536):
            await here.send(writer, bytes(65536))

    async with target(pour) as server:
        assert await probe(at(server.url)) == Finding(passed=True, output="HTTP 200")
        async with asyncio.timeout(TIMEOUT_S):
            await server.broken.wait()
    assert read == BODY_BYTES_MAX
    assert server.sent < whole / 10, "the rest stays with the server, and not in this host's buffers"


async def test_a_compressed_body_is_not_unpacked(probe: HttpProbe):
    async with target(says(200, "not gzip at all", Content_Encoding="gzip")) as server:
        assert (await probe(at(server.url))).passed
    assert "Accept-Encoding: identity" in server.asked[0]


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
async def test_a_server_that_drips_bytes_is_cut_off(probe: HttpProbe, begin: bytes):
    async def drip(here: Target, writer: asyncio.StreamWriter) -> None:
        await here.send(writer, begin)
        while True:
            await here.send(writer, b"x")
            await asyncio.sleep(0.02)

    async with target(drip) as server:
        finding = await ask(probe, at(server.url), HttpCheck(), HASTY_S)
        assert finding == Finding(passed=False, output="timed out after 0.3 s", answered=False)
        async with asyncio.timeout(TIMEOUT_S):
            await server.broken.wait()


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "what it answers is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!", "broke off its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "what it answers is not HTTP"),
    ],
)
async def test_what_is_no_whole_answer_fails_with_words_of_ours(probe: HttpProbe, answer: bytes, output: str):
    async def say(here: Target, writer: asyncio.StreamWriter) -> None:
        await here.send(writer, answer)

    async with target(say) as server:
        assert await ask(probe, at(server.url), HttpCheck(), TIMEOUT_S) == Finding(
            passed=False, output=output
        )


# Where it may not go


@pytest.mark.parametrize(
    ("url", "output"),
    [
        ("http://10.0.0.7/", "its host is neither the service's own nor this node"),
        ("http://evil.example/", "its host is neither the service's own nor this node"),
        ("http://127.0.0.1\\@evil.example/", "its URL cannot be read"),
        ("http://user@evil.example/", "its host is neither the service's own nor this node"),
        ("ftp://127.0.0.1/", "ftp is neither http nor https"),
        ("http://[::ffff:169.254.169.254]/", "its host is neither the service's own nor this node"),
        ("http://", "its host is neither the service's own nor this node"),
        ("http://127.0.0.1:99999/", "its URL cannot be read"),
    ],
)
async def test_a_url_that_leads_elsewhere_is_not_asked(probe: HttpProbe, url: str, output: str):
    finding = await ask(probe, at(url), HttpCheck(), TIMEOUT_S)
    assert (finding.passed, finding.output) == (None, f"not probed: {output}")


async def test_a_service_whose_own_host_is_a_metadata_service_is_not_asked(probe: HttpProbe):
    finding = await probe(at("http://169.254.169.254/latest/meta-data/", host="169.254.169.254"))
    assert (finding.passed, finding.output) == (None, "not probed: its address is link-local")


async def test_a_name_that_leads_to_a_metadata_service_is_not_asked(
    probe: HttpProbe, monkeypatch: pytest.MonkeyPatch
):
    async def rebound(*_: object, **__: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound)
    finding = await probe(at("http://nas.example/", host="nas.example"))
    assert finding.passed is None
    assert finding.output == "not probed: its host leads to an address that must not be asked"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch):
    async with target(says(200)) as proxy, target(says(204, "")) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with HttpProbe(()) as probe:
            assert (await probe(at(server.url))).output == "HTTP 204"
        assert not proxy.asked


# HTTPS


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, tuple[x509.Certificate, ...]]:
    """What a service of the mesh serves with, and the mesh's roots."""
    now_ms = SystemClock().now_ms()
    keystore.ensure_authority(tmp_path / "tls", MESH, now_ms)
    keystore.open_identity(tmp_path / "identity", tmp_path / "tls", MESH, "alpha", (HOST,), now_ms)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "identity" / "node.crt", tmp_path / "identity" / "node.key")
    return context, keystore.read_roots(tmp_path / "tls")


async def test_a_certificate_of_the_mesh_is_trusted_as_soon_as_its_root_is(
    tls: tuple[ssl.SSLContext, tuple[x509.Certificate, ...]],
):
    context, known = tls
    roots: tuple[x509.Certificate, ...] = ()
    async with target(says(200), tls=context) as server, HttpProbe((), lambda: roots) as probe:
        assert await probe(at(server.url)) == Finding(passed=False, output="its certificate is not trusted")
        roots = known
        assert (await probe(at(server.url))).passed
        assert len(server.asked) == 1


async def test_a_certificate_for_another_name_is_not_trusted(
    tls: tuple[ssl.SSLContext, tuple[x509.Certificate, ...]],
):
    context, roots = tls
    async with target(says(200), tls=context) as server, HttpProbe((), lambda: roots) as probe:
        finding = await probe(at(f"https://127.0.0.2:{server.port}/"))
        assert not finding.passed
        assert not server.asked


async def test_a_server_without_tls_fails_over_https(probe: HttpProbe):
    def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        finding = await ask(probe, at(f"https://{HOST}:{port}/"), HttpCheck(), TIMEOUT_S)
    assert finding == Finding(passed=False, output="no TLS there")


# Bounds around any probe


async def test_a_fault_in_a_probe_costs_a_finding_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    async def broken(*_: object) -> Finding:
        raise KeyError(SECRET)

    assert await ask(broken, at("http://127.0.0.1/"), HttpCheck(), TIMEOUT_S) == Finding(
        passed=False, output="the probe itself failed", answered=False
    )
    said = "".join(capsys.readouterr())
    assert "KeyError" in said
    assert SECRET not in said


def test_the_probe_reads_64_kib_and_follows_three_redirects():
    assert (http_probe.BODY_BYTES_MAX, http_probe.REDIRECTS_MAX) == (65536, 3)
