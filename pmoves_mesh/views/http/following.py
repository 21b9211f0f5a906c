"""`GET /api/events` as a stream: each event as it comes, as server-sent events.

A reader is sent the next events once it has taken those before, and one that does not take them is dropped.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final

from aiohttp import hdrs, web

from pmoves_mesh.core.history import EventsFollowed, Told
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http import events
from pmoves_mesh.views.http.facade import FACADE, Historian

LAST_EVENT_ID: Final = "Last-Event-ID"

_BEHIND_S: Final = 30.0
_COMMENT_S: Final = 15.0
_RETRY_MS: Final = (1000, 3000)
_HEADERS: Final = {hdrs.CONTENT_TYPE: events.EVENT_STREAM, "X-Accel-Buffering": "no"}

_random: Final = secrets.SystemRandom()


async def follow(request: web.Request, historian: Historian, wanted: EventsFollowed) -> web.StreamResponse:
    """Tells a reader of events for as long as it takes them.

    Raises:
        LogUnavailable: if the log cannot be reached, before anything was said.
        HistoryBusyError: if too many follow.
    """
    replica = request.app[FACADE].replica
    response = web.StreamResponse(headers=_HEADERS)
    async with aclosing(historian.follow(wanted)) as groups:
        begin = await anext(groups)
        with suppress(ConnectionError):  # it may go whenever it likes
            await response.prepare(request)
            if request.method != "HEAD":
                head = events.retry(_random.randint(*_RETRY_MS)) + _comment(replica) + _frames(begin)
                await _told(request, response, groups, head)
    return response


async def _told(
    request: web.Request,
    response: web.StreamResponse,
    groups: AsyncGenerator[Sequence[Told], None],
    head: bytes,
) -> None:
    """Passes events on until either side ends; a reader that is too slow gets no farewell."""
    replica = request.app[FACADE].replica
    try:
        await _write(response, head)
        await _tell(response, replica, groups)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except LogUnavailable:
        await _write(response, events.end("away", replica.position))


async def _tell(
    response: web.StreamResponse, replica: Replica, groups: AsyncGenerator[Sequence[Told], None]
) -> None:
    """Passes events on; a comment goes to a reader of whom there is nothing to tell.

    Raises:
        TimeoutError: if the reader does not take them.
    """
    while True:
        coming = asyncio.ensure_future(anext(groups))
        try:
            while not (await asyncio.wait((coming,), timeout=_COMMENT_S))[0]:
                await _write(response, _comment(replica))
            told = coming.result()
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
        await _write(response, _frames(told))


def _frames(told: Sequence[Told]) -> bytes:
    return b"".join(events.event("event", one.position, one.body) for one in told)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(_BEHIND_S):
        await response.write(data)


def _comment(replica: Replica) -> bytes:
    return events.comment(replica.position, replica.stale_s)
