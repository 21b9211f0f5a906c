"""A node that searches in one way, which it is given as its only word: `vector`, `graph` or `full-text`."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from program import run
from texts import WAYS

from pmoves_mesh import Mesh


async def serve(kind: str) -> None:
    """Searches for whoever asks, until it is told to end."""
    app = web.Application()

    async def search(request: web.Request) -> web.Response:
        return web.json_response({"found": WAYS[kind](request.query["q"])})

    app.router.add_get("/search", search)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Mesh.connect() as mesh, mesh.register(f"{kind}-search", port=port, capabilities=[kind]):
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    run(serve(sys.argv[1]))
