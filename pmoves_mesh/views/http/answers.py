"""How answers are sent: JSON in parts, an ETag, a deadline for slow readers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from pmoves_mesh.views.http.facade import FACADE

JSON: Final = "application/json"
TEXT: Final = "text/plain"
POSITION: Final = "X-Mesh-Position"
STALE: Final = "X-Mesh-Stale"
INDEX: Final = "X-Mesh-Index"

LASTING: Final[Mapping[str, str]] = {
    hdrs.SERVER: "pmoves-mesh",
    hdrs.CACHE_CONTROL: "no-cache",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer carries, whatever it says."""

_SEND_TIMEOUT_S: Final = 60.0
_WHOLE_BYTES_MAX: Final = 64 * 1024

encode: Final = msgspec.json.Encoder().encode


class Answer(Struct, frozen=True, kw_only=True):
    """What a route found.

    Attributes:
        parts: the body, in pieces.
        status: the HTTP status.
        position: where in the stream the change stands that was made; None for a read, which shows
            at least what the replica held when it began.
        tag: its ETag, without quotes; None for one over the body's bytes.
        headers: further ones.
    """

    parts: Sequence[bytes]
    status: int = 200
    position: int | None = None
    tag: str | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = {}


async def send(request: web.Request, answer: Answer, position: int) -> web.StreamResponse:
    """Sends an answer, or 304 if the reader has it already.

    Args:
        request: what is answered.
        answer: the answer.
        position: the replica's, for an answer that has none of its own.

    Source: RFC 9110 sections 8.8.3 and 13.1.2.
    """
    tag = await _etag(answer.parts) if answer.tag is None else answer.tag
    headers = {
        hdrs.CONTENT_TYPE: answer.content_type,
        hdrs.ETAG: f'"{tag}"',
        POSITION: str(position if answer.position is None else answer.position),
        **answer.headers,
    }
    if answer.status == 200 and _holds(request, tag):
        del headers[hdrs.CONTENT_TYPE]
        return web.Response(status=304, headers=headers)
    if sum(map(len, answer.parts)) <= _WHOLE_BYTES_MAX:
        return web.Response(body=b"".join(answer.parts), status=answer.status, headers=headers)
    return await _stream(request, answer, headers)


async def finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Adds what every answer carries, problems included."""
    replica = request.app[FACADE].replica
    headers = response.headers
    headers.setdefault(POSITION, str(replica.position))
    if not replica.is_current:
        stale_s = replica.stale_s
        headers[STALE] = "unknown" if stale_s is None else f"{stale_s:.3f}"
    headers.update(LASTING)


async def _etag(parts: Sequence[bytes]) -> str:
    """Returns the ETag of a body, and lets others have their turn where there is much to read."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
        if len(part) > _WHOLE_BYTES_MAX:
            await asyncio.sleep(0)
    return digest.hexdigest()


def _holds(request: web.Request, tag: str) -> bool:
    """Returns whether the reader says that it has this very body."""
    if request.method not in {"GET", "HEAD"}:
        return False
    return any(known.value in {tag, "*"} for known in request.if_none_match or ())


async def _stream(request: web.Request, answer: Answer, headers: dict[str, str]) -> web.StreamResponse:
    """Sends a long body as its reader takes it; a reader that takes too long is cut off."""
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = sum(map(len, answer.parts))
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await response.prepare(request)
            if request.method != "HEAD":
                for part in answer.parts:
                    await response.write(part)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
