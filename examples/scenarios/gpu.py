"""Scenario: a PC without a GPU sends each job to the node that fits it best.

    python examples/scenarios/gpu.py

Three hosts are started on this machine, all of it real but their GPUs; it ends with 1 if anything is not so.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import aiohttp
import machine
from hosts import PATIENCE_S, POLL_S, hosts

from pmoves_mesh import Mesh

LEASE: Final = {"PMOVES_LEASE_TTL_S": "3"}
"""How busy a node is stands in its lease, so that it is known within a second here."""

LONG: Final[dict[str, Any]] = {"name": "a film", "needs_gb": 16, "takes_s": 600}
SHORT: Final[dict[str, Any]] = {"name": "a picture", "needs_gb": 4, "takes_s": 0}


class Sender:
    """Sends jobs to GPU nodes, wherever they are."""

    def __init__(self, mesh: Mesh, http: aiohttp.ClientSession) -> None:
        """Takes the mesh that it finds nodes in, and what it sends with."""
        self._mesh = mesh
        self._http = http

    async def fitting(self, job: dict[str, Any]) -> list[Any]:
        """Returns the instances whose node has a GPU that the job fits into, the least busy first."""
        memory = {"resources.gpu.memory_gb": {"gte": job["needs_gb"]}}
        return await self._mesh.discover("render", where=memory, prefer="least_loaded")

    async def send(self, job: dict[str, Any]) -> str:
        """Sends a job to the node that fits best, or to the next if it is dead; returns it, or `nobody`."""
        for one in await self.fitting(job):
            try:
                async with self._http.post(one.url("/work"), json=job) as answer:
                    answer.raise_for_status()
                    return str(one.node)
            except aiohttp.ClientError:
                self._mesh.failed(one)
        return "nobody"


async def main() -> None:
    """Sends jobs while both are idle, while one is busy, with the other lost, and one that fits nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"pc": 0, "big": 24, "small": 8}
        roots = {name: machine.make(Path(folder) / name, gpu_gb=size) for name, size in sizes.items()}
        settings = {name: {**LEASE, "PMOVES_HOST_ROOT": str(root)} for name, root in roots.items()}
        with hosts(settings) as mesh:
            for name in ("big", "small"):
                mesh[name].run("gpu_worker.py")
            async with aiohttp.ClientSession() as http, Mesh.connect(mesh["pc"].url) as found:
                sender = Sender(found, http)
                await until(sender, SHORT, "big", "small")
                tell(await sender.send({**SHORT, "needs_gb": 16}), "big", "needs 16 GB")
                film = asyncio.create_task(sender.send(LONG))
                await until(sender, SHORT, "small", "big")
                tell(await sender.send(SHORT), "small", "the larger node is busy")
                mesh["small"].lose()
                tell(await sender.send(SHORT), "big", "the other is lost")
                tell(await sender.send({**SHORT, "needs_gb": 48}), "nobody", "needs 48 GB")
                film.cancel()


def tell(node: str, expected: str, when: str) -> None:
    """Prints which node got a job; ends the program if another should have."""
    print(f"{when}: {node}", flush=True)
    if node != expected:
        sys.exit(f"expected {expected}")


async def until(sender: Sender, job: dict[str, Any], *order: str) -> None:
    """Waits until nodes are found in an order."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        if [one.node for one in await sender.fitting(job)] == list(order):
            return
        await asyncio.sleep(POLL_S)
    sys.exit(f"the order is not {order}")


if __name__ == "__main__":
    asyncio.run(main())
