"""The routes of the console: its page for browsers at `/`, and its files, all read when the server starts.

Nothing in it comes from elsewhere, and the policy that it is sent with lets nothing from elsewhere in.
What it shows was written by others: the policy also forbids it to make markup of text.

Source: W3C Content Security Policy Level 3; W3C Trusted Types.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct

from pmoves_mesh.views.http import reads
from pmoves_mesh.views.http.answers import JSON, Answer
from pmoves_mesh.views.http.console.accept import prefers, takes
from pmoves_mesh.views.http.route import Route

PAGE: Final = "index.html"
HTML: Final = "text/html"
FILES_BYTES_MAX: Final = 150_000
"""What the page and all its files take together at most, as they are on disk."""

_TYPES: Final = {
    ".html": f"{HTML}; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_VARY: Final[Mapping[str, str]] = {hdrs.VARY: hdrs.ACCEPT}


class StaticFile(Struct, frozen=True):
    """A file of the console, as it is and compressed."""

    content_type: str
    plain: bytes
    packed: bytes


FILES: Final = web.AppKey("console_files", Mapping[str, StaticFile])


def load() -> Mapping[str, StaticFile]:
    """Returns every file of the console by its name, as the package has them."""
    found: dict[str, StaticFile] = {}
    for file in files(__package__).joinpath("static").iterdir():
        content_type = _TYPES.get(f".{file.name.rpartition('.')[2]}")
        if content_type is not None:
            plain = file.read_bytes()
            found[file.name] = StaticFile(content_type, plain, gzip.compress(plain, mtime=0))
    return MappingProxyType(found)


async def index(request: web.Request) -> Answer:
    """Answers `GET /`: the console to whoever likes HTML best, to anybody else which registry this is."""
    if prefers(request.headers.get(hdrs.ACCEPT, ""), HTML, JSON):
        return _sent(request, request.app[FILES][PAGE], hdrs.ACCEPT, hdrs.ACCEPT_ENCODING)
    answer = await reads.index(request)
    return Answer(parts=answer.parts, headers=_VARY)


async def file(request: web.Request) -> Answer:
    """Answers `GET /console/{file}`."""
    found = request.app[FILES].get(request.match_info["file"])
    if found is None:
        raise web.HTTPNotFound
    return _sent(request, found, hdrs.ACCEPT_ENCODING)


def _sent(request: web.Request, found: StaticFile, *vary: str) -> Answer:
    headers = {**_HEADERS, hdrs.VARY: ", ".join(vary)}
    packed = takes(request.headers.get(hdrs.ACCEPT_ENCODING, ""), "gzip")
    if packed:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    body = found.packed if packed else found.plain
    return Answer(parts=[body], content_type=found.content_type, headers=headers)


ROUTES: Final = (
    Route(
        method="GET",
        path="/console/{file}",
        handle=file,
        summary="Give the console's page its scripts, its style and its icon.",
        answers={200: str},
    ),
)
