"""A worker on a host with a GPU: takes one job after another, and lets its GPU be busy meanwhile."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import machine
from aiohttp import web
from program import run

from pmoves_mesh import Mesh

ROOT = Path(os.environ["PMOVES_HOST_ROOT"])


async def work(request: web.Request) -> web.Response:
    """Answers `POST /work` after the seconds that the job takes; a model's arithmetic would stand here."""
    job = await request.json()
    machine.busy(ROOT, 90)
    try:
        await asyncio.sleep(job["takes_s"])
    finally:
        machine.busy(ROOT, 0)
    return web.json_response({"done": job["name"]})


async def serve() -> None:
    """Works for whoever asks, until it is told to end."""
    app = web.Application()
    app.router.add_post("/work", work)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with Mesh.connect() as mesh, mesh.register("renderer", port=port, capabilities=["render"]):
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    run(serve())
