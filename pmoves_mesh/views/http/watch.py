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
from pmoves_mesh.views.http.watcher import Watcher
from pmoves_mesh.views.http.watches import WATCHES, Watches

WATCHERS_MAX: Final = 4096
LAST_EVENT_ID: Final = "Last-Event-ID"

_AHEAD_S: Final = 5.0
_BEGIN_S: Final = 60.0
_FAREWELL_S: Final = 10.0
_RETRY_MS: Final = (1000, 3000)
_DIGITS_MAX: Final = 18

_random: Final = secrets.SystemRandom()


async def watch(request: web.Request) -> web.StreamResponse:
    """Answers `GET /api/watch`, for as long as the reader takes it."""
    watches, facade = request.app[WATCHES], request.app[FACADE]
    wanted, replica = inputs.parse_filter(request), facade.replica
    if watches.watching >= WATCHERS_MAX:
        raise web.HTTPServiceUnavailable(text=f"at most {WATCHERS_MAX} may watch this agent")
    resumed = await _resumed(request, replica)
    broadcast = watches.of(wanted)
    if not len(broadcast.feed):
        reads.check_informed(replica)
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: events.EVENT_STREAM, "X-Accel-Buffering": "no"})
    await response.prepare(request)
    transport = request.transport
    if request.method == "HEAD" or transport is None:
        return response
    watcher = Watcher(transport, replica.position, chunked=request.version >= HttpVersion11)
    with watches.using(broadcast), suppress(ConnectionError):  # it may go whenever it likes
        if await _catch_up(response, watches, broadcast, watcher, resumed):
            with watches.told(broadcast, watcher):
                await watcher.ended
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


async def _catch_up(
    response: web.StreamResponse,
    watches: Watches,
    broadcast: Broadcast,
    watcher: Watcher,
    resumed: int | None,
) -> bool:
    """Tells a reader everything up to now; returns whether it took that in time."""
    told = broadcast.told
    try:
        async with asyncio.timeout(_BEGIN_S):
            head = events.retry(_random.randint(*_RETRY_MS))
            missed = None if resumed is None else watches.after(broadcast, resumed)
            if missed is not None:
                told = broadcast.told
                await response.write(head + missed)
            else:
                head += b"event: snapshot\nid: %d\ndata: " % watcher.position
                *parts, last = await watches.snapshot(broadcast)
                for part in (*parts, last + b"\n\n"):
                    await response.write(head + part)
                    head = b""
            while told != broadcast.told:
                watcher.position, news = watches.since(broadcast, told)
                if news is None:
                    break
                told = broadcast.told
                await response.write(news)
            else:
                return True
    except TimeoutError:
        pass
    watcher.end("slow")
    return False


async def _end(response: web.StreamResponse, watcher: Watcher) -> None:
    """Says goodbye to a reader once it has taken everything else; if that takes too long, it is cut off."""
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await response.write(events.end(watcher.ended.result(), watcher.position))
            await response.write_eof()
    except TimeoutError:
        watcher.abort()
