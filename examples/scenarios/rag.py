"""Scenario: a coordinator finds vector, graph and full-text nodes by what they can, and outlives them.

    python examples/scenarios/rag.py

Four hosts are started on this machine, all of it real; it ends with 1 if anything is not as it says.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Final

import aiohttp
from coordinator import Coordinator
from hosts import PATIENCE_S, POLL_S, hosts

from pmoves_mesh import Mesh

QUESTION: Final = "Why does the rover climb slowly?"
ALL: Final = {"vector": "gpu", "graph": "vps", "full-text": "jetson"}


async def main() -> None:
    """Asks while all are there, with a program dead, with a whole host lost, and once that is back."""
    with hosts({name: {} for name in ("pc", "gpu", "jetson", "vps")}) as mesh:
        vector = mesh["gpu"].run("search_node.py", "vector")
        for name, kind in (("jetson", "vector"), ("jetson", "full-text"), ("vps", "graph")):
            mesh[name].run("search_node.py", kind)
        async with aiohttp.ClientSession() as http, Mesh.connect(mesh["pc"].url) as found:
            coordinator = Coordinator(found, http)
            await until_all(found, coordinator)
            await ask(coordinator, "all are there", ALL)
            vector.kill()
            others = {**ALL, "vector": "jetson"}
            await ask(coordinator, "a vector node is dead", others)
            mesh["vps"].lose()
            await ask(
                coordinator, "a whole host is lost", {kind: others[kind] for kind in ("vector", "full-text")}
            )
            mesh["vps"].start()
            mesh["vps"].run("search_node.py", "graph")
            mesh["gpu"].run("search_node.py", "vector")
            await until_all(found, coordinator)
            await ask(coordinator, "they are back", ALL)


async def ask(coordinator: Coordinator, when: str, expected: Mapping[str, str]) -> None:
    """Asks once, and prints what was found and who searched; ends the program if others did."""
    answer = await coordinator.ask(QUESTION)
    asked = ", ".join(f"{kind} on {node}" for kind, node in answer.asked.items())
    print(f"{when}: {' '.join(answer.texts)} ({asked})", flush=True)
    if answer.asked != expected:
        sys.exit(f"expected {expected}")


async def until_all(mesh: Mesh, coordinator: Coordinator) -> None:
    """Waits until four nodes are found, and each kind answers from where it is expected."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        found = [one for kind in ALL for one in await mesh.discover(kind)]
        if len(found) == 4 and (await coordinator.ask(QUESTION)).asked == ALL:
            return
        await asyncio.sleep(POLL_S)
    sys.exit("not all of them answer")


if __name__ == "__main__":
    asyncio.run(main())
