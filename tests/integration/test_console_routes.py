"""How the console is served: to whom, with which headers, and from an installed wheel too."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from agents import ROOT, mesh_in
from http_support import HOST, Served, served

from pmoves_mesh.views.http.console import pages

STATIC = Path(pages.__file__).parent / "static"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as mesh:
        yield mesh


async def asked(
    mesh: Served, path: str, method: str = "GET", **headers: str
) -> tuple[aiohttp.ClientResponse, bytes]:
    url = f"http://{HOST}:{mesh.port}{path}"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Accept-Encoding", "identity")
        async with session.request(method, url, headers=named) as response:
            return response, await response.read()


async def test_a_browser_gets_the_page_and_every_other_client_the_registrys_name(mesh: Served):
    response, body = await asked(mesh, "/", **BROWSER)
    assert response.content_type == "text/html"
    assert body == (STATIC / "index.html").read_bytes()
    for accept in ("*/*", "application/json"):
        response, body = await asked(mesh, "/", Accept=accept)
        assert response.content_type == "application/json"
        assert b'"name":"service-registry"' in body


async def test_a_cache_is_told_on_what_the_answer_depends(mesh: Served):
    page, _ = await asked(mesh, "/", **BROWSER)
    index, _ = await asked(mesh, "/", Accept="*/*")
    assert page.headers["Vary"] == "Accept, Accept-Encoding"
    assert index.headers["Vary"] == "Accept"
    assert page.headers["ETag"] != index.headers["ETag"]
    again, body = await asked(mesh, "/", If_None_Match=page.headers["ETag"], **BROWSER)
    assert (again.status, body, again.headers["Vary"]) == (304, b"", "Accept, Accept-Encoding")


async def test_a_policy_keeps_everything_from_elsewhere_out_of_the_page(mesh: Served):
    for path in ("/", "/console/main.js"):
        response, _ = await asked(mesh, path, **BROWSER)
        parts = [part.strip() for part in response.headers["Content-Security-Policy"].split(";")]
        policy = {name: values for name, *values in (part.split() for part in parts)}
        assert policy["default-src"] == ["'none'"]
        for kind in ("script-src", "style-src", "img-src", "connect-src"):
            assert policy[kind] == ["'self'"]
        for kind in ("base-uri", "form-action", "frame-ancestors"):
            assert policy[kind] == ["'none'"]
        assert policy["require-trusted-types-for"] == ["'script'"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Frame-Options"] == "DENY"


async def test_every_file_comes_as_it_is_or_compressed_with_a_tag_of_its_own(mesh: Served):
    for file in STATIC.iterdir():
        plain, body = await asked(mesh, f"/console/{file.name}")
        packed, small = await asked(mesh, f"/console/{file.name}", Accept_Encoding="br, gzip")
        assert body == file.read_bytes() == gzip.decompress(small)
        assert packed.headers["Content-Encoding"] == "gzip"
        assert plain.headers["ETag"] != packed.headers["ETag"]
        same, _ = await asked(mesh, f"/console/{file.name}", If_None_Match=plain.headers["ETag"])
        assert same.status == 304


async def test_a_script_has_a_type_that_a_browser_takes_for_one(mesh: Served):
    for name, kind in {
        "main.js": "text/javascript",
        "console.css": "text/css",
        "icon.svg": "image/svg+xml",
    }.items():
        response, body = await asked(mesh, f"/console/{name}", "HEAD")
        assert (response.content_type, body) == (kind, b"")
        assert int(response.headers["Content-Length"]) == (STATIC / name).stat().st_size


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpages.py", "pages.py", ""])
async def test_what_is_no_file_of_the_console_is_not_found(mesh: Served, name: str):
    response, body = await asked(mesh, f"/console/{name}")
    assert response.status == 404
    assert b'"status":404' in body


def test_an_installed_wheel_serves_the_page_too(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "built")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "built").glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    with mesh_in(tmp_path / "mesh") as mesh:
        agent = mesh.agent("alpha", PYTHONPATH=str(installed)).start()
        page = agent.request("GET", "/", headers=BROWSER)
        assert page.text == (STATIC / "index.html").read_text()
        for path in re.findall(r'(?:href|src)="(console/[^"]+)"', page.text):
            assert agent.get(f"/{path}").status == 200
        for name in (file.name for file in STATIC.iterdir()):
            assert agent.get(f"/console/{name}").text == (STATIC / name).read_text()
