"""The route for Prometheus: whatever the metrics view renders, in the format that was asked for."""

from __future__ import annotations

from aiohttp import hdrs, web

from pmoves_mesh.views.http.answers import Answer
from pmoves_mesh.views.http.facade import FACADE


async def metrics(request: web.Request) -> Answer:
    """Answers `GET /metrics`; 404 by an agent that measures nothing."""
    render = request.app[FACADE].metrics
    if render is None:
        raise web.HTTPNotFound(text="this agent measures nothing")
    text, content_type = await render(request.headers.get(hdrs.ACCEPT, ""))
    return Answer(parts=[text], content_type=content_type)
