"""How long each answer took, told to whoever measures."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from pmoves_mesh.views.http.events import EVENT_STREAM
from pmoves_mesh.views.http.facade import FACADE

NO_ROUTE: Final = "none"
"""The route of whatever is asked for that does not exist: anybody can make up paths without end."""


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells what an answer took, but for those whose readers asked to wait for a change."""
    facade = request.app[FACADE]
    if facade.observe is None:
        return await handler(request)
    began_s = facade.clock.monotonic_s()
    response = await handler(request)
    if not request.query.get("index") and response.content_type != EVENT_STREAM:
        resource = request.match_info.route.resource
        route = NO_ROUTE if resource is None else resource.canonical
        seconds = facade.clock.monotonic_s() - began_s
        facade.observe(request.method, route, response.status, seconds)
    return response
