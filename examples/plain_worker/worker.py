"""A worker with no port: in the mesh while it lives, it takes jobs from a subject."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from pmoves_mesh import Mesh

JOBS = "shout.wanted.v1"
DONE = "shout.done.v1"


async def work() -> None:
    """Works until it is told to end."""
    async with Mesh.connect() as mesh, mesh.register("shouter", capabilities=["shout"]):
        print(f"registered on {mesh.node}; waiting on {JOBS}", flush=True)
        # Of all workers that name the same queue, one gets each job.
        async for job in mesh.subscribe(JOBS, queue="shouters"):
            await mesh.publish(DONE, job.payload.upper())


async def main() -> None:
    """Ends in order on SIGTERM too, as service managers and containers send it."""
    working = asyncio.ensure_future(work())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
