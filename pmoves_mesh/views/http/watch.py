"""`GET /api/watch`: first what matches, then every change of it, as server-sent events.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from pmoves_mesh.errors import ReplicaBehindError
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http import events, inputs, reads
from pmoves_mesh.views.http.broadcast import Broadcast
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.watcher import AT_EASE_BYTES, Watcher
from pmoves_mesh.views.http.watches import WATCHES, Watches

WATCHERS_MAX: Final = 4096
LAST_EVENT_ID: Final = "Last-Event-ID"

_AHEAD_S: Final = 5.0
_BEGIN_S: Final = 60.0
_BEHIND_S: Final = 30.0
_FAREWELL_S: Final = 10.0
_RETRY_MS: Final = (1000, 3000)
_DIGITS_MAX: Final = 18

_HEADERS: Final = {hdrs.CONTENT_TYPE: events.EVENT_STREAM, "X-Accel-Buffering": "no"}

_random: Final = secrets.SystemRandom()


async def watch(request: web.Request) -> web.StreamResponse:
    """Answers `GET /api/watch`, for as long as the reader takes it."""
    watches, facade = request.app[WATCHES], request.app[FACADE]
    wanted, replica = inputs.parse_filter(request), facade.replica
    if watches.watching >= WATCHERS_MAX:
        raise web.HTTPServiceUnavailable(text=f"at most {WATCHERS_MAX} may watch this agent")
    resumed = await _resumed(request, replica)
    async with watches.using(wanted) as broadcast:
        if not len(broadcast.feed):
            reads.check_informed(replica)
        response = web.StreamResponse(headers=_HEADERS)
        with suppress(ConnectionError):  # it may go whenever it likes
            await response.prepare(request)
            if request.method != "HEAD" and request.transport is not None:
                watcher = Watcher(request.transport, chunked=request.version >= HttpVersion11)
                with watches.told(broadcast, watcher):
                    await _begin(response, watches, broadcast, watcher, resumed)
                    await _follow(watches, broadcast, watcher)
                await _end(response, watcher)
    return response


async def _resumed(request: web.Request, replica: Replica) -> int | None:
    """Returns up to where a reader was told already; None if it begins, or names what is no position.

    A reader that comes from another agent may know more than this one, for a moment.
    """
    text = request.headers.get(LAST_EVENT_ID, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        return None
    with suppress(ReplicaBehindError):
        await replica.wait_position(int(text), _AHEAD_S)
    return int(text)


async def _begin(
    response: web.StreamResponse,
    watches: Watches,
    broadcast: Broadcast,
    watcher: Watcher,
    resumed: int | None,
) -> None:
    """Tells a reader what it missed, or everything that matches; one that takes too long is cut off."""
    missed = watches.begin(broadcast, watcher, resumed)
    head = events.retry(_random.randint(*_RETRY_MS))
    if missed is not None:
        watcher.write(head + missed)
        return
    try:
        async with asyncio.timeout(_BEGIN_S):
            head += b"event: snapshot\nid: %d\ndata: " % watcher.position
            *parts, last = await watches.snapshot(broadcast)
            for part in (*parts, last + b"\n\n"):
                await response.write(head + part)
                head = b""
    except TimeoutError:
        watcher.end("slow")
        watcher.abort()  # it is amid an event, where no other has its place


async def _follow(watches: Watches, broadcast: Broadcast, watcher: Watcher) -> None:
    """Lets a reader be told of changes, and catches up with it when it is behind, until either ends."""
    while watcher.reason is None:
        if await watcher.taken(_BEHIND_S, all_but=AT_EASE_BYTES):
            if watcher.told != broadcast.told:
                watcher.write(watches.catch_up(broadcast, watcher))
                continue
            watcher.live = True
            await watcher.stopped()


async def _end(response: web.StreamResponse, watcher: Watcher) -> None:
    """Says goodbye to a reader once it has taken everything else; if that takes too long, it is cut off."""
    watcher.write(events.end(watcher.reason or "stopping", watcher.position))
    if await watcher.taken(_FAREWELL_S):
        await response.write_eof()
    else:
        watcher.abort()
