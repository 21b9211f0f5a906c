"""Agents on places of their own, as hosts of one mesh on a cluster of nats-servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self

import requests
from agents import LAST_SEEN, PROGRAM, AgentProcess, Answer, Mesh, eventually
from places import Place
from servers import Cluster

AGREED_S: Final = 60.0


class HostedAgent(AgentProcess):
    """An agent on a place of its own, whose HTTP port stays the same from run to run."""

    def __init__(self, mesh_dir: Path, node: str, place: Place, cluster: Cluster, **settings: str) -> None:
        self.place = place
        self.http_port = place.port(8100)
        own = {
            "SERVICE_REGISTRY_PORT": str(self.http_port),
            "PMOVES_ADVERTISE_HOST": place.address,
            **settings,
        }
        super().__init__(mesh_dir, node, cluster.url, **own)

    @property
    def program(self) -> tuple[str, ...]:
        return (*self.place.inside, *PROGRAM)

    def request(self, method: str, path: str, **options: Any) -> Answer:
        with self.place.entered():
            return super().request(method, path, **options)

    @property
    def server_url(self) -> str:
        """The nats-server to which it connected last."""
        return str(self.logged("nats_connected")[-1]["server"])

    def holdings(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Returns every instance it lists, by node and name."""
        return {(one["node"], one["name"]): one for one in self.get("/api/services").body["services"]}

    def nodes(self) -> dict[str, str]:
        """Returns the status of every node it knows."""
        return {one["name"]: one["status"] for one in self.get("/api/nodes").body["nodes"]}


class HostedMesh(Mesh):
    """A cluster and the agents that use it; all of them end with the context."""

    agents: dict[str, HostedAgent]  # type: ignore[assignment]

    def __init__(self, directory: Path, cluster: Cluster, places: tuple[Place, ...]) -> None:
        self.directory = directory
        self.cluster = cluster
        self.agents = {}
        self._places = list(places)

    def agent(self, node: str, **settings: str) -> HostedAgent:
        place = self._places.pop(0)
        self.agents[node] = HostedAgent(self.directory, node, place, self.cluster, **settings)
        return self.agents[node]

    def begun(self, *nodes: str) -> tuple[HostedAgent, ...]:
        """Returns agents that have joined the mesh, and know one another."""
        agents = tuple(self.agent(node) for node in nodes)
        for agent in agents:
            agent.start().ready()
        for agent in agents:
            eventually(lambda agent=agent: set(agent.nodes()) == set(nodes), f"{agent.node} knows all")
        self.cluster.whole()
        return agents

    def agreed(self, within_s: float = AGREED_S) -> float:
        """Returns after how many seconds every agent is current, and holds what all others hold."""
        return eventually(self._is_agreed, f"all agree\n{self.told()}", within_s)

    def _is_agreed(self) -> bool:
        try:
            agents = list(self.agents.values())
            if not all(agent.is_ready() and agent.registry["outbox"] == 0 for agent in agents):
                return False
            return len({LAST_SEEN.sub("", agent.get("/api/services").text) for agent in agents}) == 1
        except (requests.RequestException, ValueError, KeyError):
            return False

    def told(self) -> str:
        """Returns what each agent said last, for whoever reads why a test failed."""
        return "\n".join(f"-- {agent.node}\n{agent.log[-1500:]}" for agent in self.agents.values())

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for agent in self.agents.values():
            agent.kill()
        self.cluster.__exit__(*error)
