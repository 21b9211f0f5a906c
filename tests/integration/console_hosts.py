"""Two real agents for tests of the console, started once and left as they were after each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents import Mesh, eventually, mesh_in


@contextmanager
def two_hosts(directory: Path) -> Iterator[Mesh]:
    """The hosts `alpha` and `beta`, each of which knows the other."""
    with mesh_in(directory) as mesh:
        agents = [mesh.started(node) for node in ("alpha", "beta")]
        for agent in agents:
            eventually(lambda here=agent: len(here.get("/api/nodes").body["nodes"]) == 2, "both are known")
        yield mesh


def empty(mesh: Mesh) -> None:
    """Takes back whatever a test has registered."""
    for agent in mesh.agents.values():
        for one in agent.get("/api/services").body["services"]:
            if one["node"] == agent.node:
                agent.delete(f"/api/services/{one['name']}", id=one["id"])
    for agent in mesh.agents.values():
        eventually(lambda here=agent: not here.names(), f"{agent.node} knows no instance any more")
