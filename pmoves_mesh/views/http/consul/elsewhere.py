"""What this mesh has nothing of: said so, so that nobody takes it for empty."""

from __future__ import annotations

from aiohttp import web

from pmoves_mesh.views.http.answers import Answer

ROOTS = ("kv", "session", "txn", "event", "query", "acl", "connect", "config", "coordinate", "operator")


async def refuse(request: web.Request) -> Answer:
    """Answers whatever is not there.

    Raises:
        HTTPException: 501, always.
    """
    what = request.path.split("/", 3)[2]
    raise web.HTTPNotImplemented(text=f"this mesh has no {what}: see docs/consul.md")
