"""The route that has stream, bucket and replica compared at once, and mended."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from pmoves_mesh.core.comparison import Synced
from pmoves_mesh.errors import NotFoundError
from pmoves_mesh.views.http import guard
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.route import Route
from pmoves_mesh.views.http.shapes import Problem


async def sync(request: web.Request) -> Answer:
    """Answers `POST /api/sync`."""
    guard.check_node(request)
    synchronise = request.app[FACADE].synchronise
    if synchronise is None:
        raise NotFoundError("this agent looks after no bucket")
    return Answer(parts=[encode(await synchronise())])


ROUTES: Final = (
    Route(
        method="POST",
        path="/api/sync",
        handle=sync,
        summary="Compare stream, bucket and this replica at once, and mend what differs.",
        answers={200: Synced} | dict.fromkeys((403, 404, 429, 503), Problem),
        guard=guard.check_may_write,
        cost="write",
    ),
)
