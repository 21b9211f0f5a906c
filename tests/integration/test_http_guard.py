"""Who may write over HTTP: this host's programs, whoever has the token, and no web page from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from http_support import NODE, Served, own_address, served

from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.listener import Exposure

TOKEN = "correct horse battery staple"
BODY = b'{"name": "whisper", "port": 9000}'
INSECURE = Exposure(insecure=True)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, token=TOKEN) as here:
        yield here


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8100"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "[::1]:8100"}, 200),
        ({"Host": f"{NODE}:8100"}, 200),
        ({"Host": "rebound.example:8100"}, 403),
        ({"Host": "rebound.example:8100", "Origin": "http://rebound.example:8100"}, 403),
        ({"Host": "localhost.rebound.example"}, 403),
        ({"Host": "127.0.0.1.rebound.example"}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "localhost:8100", "Origin": "http://localhost:8100"}, 200),
        ({"Host": "localhost:8100", "Origin": "http://localhost:9999"}, 403),
        ({"Host": "proxy.example", "Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Origin": "http://evil.example", "Authorization": f"Bearer {TOKEN}"}, 403),
    ],
)
async def test_a_program_of_this_host_may_write_and_a_page_from_elsewhere_may_not(
    mesh: Served, headers: dict[str, str], status: int
):
    for method, path, body in (("POST", "/api/services", BODY), ("DELETE", "/api/services/whisper", b"")):
        answer = await mesh.ask(method, path, data=body, headers=headers)
        assert (method, answer.status, answer.body) == (method, status, answer.body)
    if status != 200:
        assert (await mesh.get("/api/services")).body["count"] == 0


@pytest.mark.parametrize("headers", [{"Host": "rebound.example"}, {"Origin": "http://evil.example"}])
async def test_whoever_may_not_write_may_still_read(mesh: Served, headers: dict[str, str]):
    assert (await mesh.get("/api/services", headers=headers)).status == 200
    assert (await mesh.ask("POST", "/api/discover", data=b"[]", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
    ],
)
async def test_a_write_from_another_host_needs_the_token(
    mesh: Served, authorization: str | None, status: int
):
    address = own_address()
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        serving(mesh.facade, address, 0, exposure=INSECURE) as port,
        aiohttp.ClientSession() as session,
    ):
        url = f"http://{address}:{port}/api/services"
        async with session.post(url, data=BODY, headers=headers) as answer:
            assert (answer.status, answer.headers.get("WWW-Authenticate")) == (
                status,
                "Bearer" if status == 401 else None,
            )
            assert TOKEN not in await answer.text()
        async with session.get(url) as reading:
            assert reading.status == 200


async def test_without_a_token_no_other_host_may_write(tmp_path: Path):
    address = own_address()
    async with (
        served(tmp_path) as mesh,
        serving(mesh.facade, address, 0, exposure=INSECURE) as port,
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}:{port}/api/services", data=BODY) as answer,
    ):
        assert answer.status == 403
        assert "SERVICE_REGISTRY_TOKEN" in await answer.text()
