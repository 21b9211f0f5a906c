"""Whatever happens, programs that follow an agent, or the stream itself, agree with every agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agents import AgentProcess, mesh_in
from agents import Mesh as Place

from pmoves_mesh import Mesh
from pmoves_mesh.config import load
from pmoves_mesh.errors import ServiceNotFound

SEEDS = (1, 2)
STEPS = 120
SOON_S = 20.0
NOT_TOLD = ("last_seen", "position", "revision", "health_output")
"""What moves without news, so that a watch does not tell it by itself."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as place:
        place.started("alpha")
        place.started("beta")
        yield place


def step(agents: list[AgentProcess], chance: random.Random) -> None:
    """Does one thing to one instance, of which there are few, so that each goes through a lot."""
    agent, name = chance.choice(agents), f"service-{chance.randrange(4)}"
    instance_id = str(chance.randrange(3))
    match chance.randrange(5):
        case 0:
            agent.delete(f"/api/services/{name}", id=instance_id)
        case 1:
            body = {"status": chance.choice(["healthy", "unhealthy"])}
            agent.request("PUT", f"/api/services/{name}/health", params={"id": instance_id}, json=body)
        case 2:
            body = {"on": chance.random() < 0.5, "reason": "a try"}
            agent.request("PUT", f"/api/services/{name}/maintenance", params={"id": instance_id}, json=body)
        case _:
            agent.register(
                name,
                id=instance_id,
                host="127.0.0.1",
                port=chance.randrange(1, 5),
                capabilities=chance.sample(["rag", "stt", "gpu"], chance.randrange(3)),
                check={"type": "ttl", "ttl_s": 600},
            )


def told(instance: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in instance.items() if field not in NOT_TOLD}


def by_agent(agent: AgentProcess) -> list[dict[str, Any]]:
    return [told(one) for one in agent.get("/api/services").body["services"]]


def by_program(mesh: Mesh) -> list[dict[str, Any]]:
    held = sorted(mesh._directory, key=lambda one: one.key)
    return [told(one) for one in msgspec.json.decode(msgspec.json.encode(held))]


@pytest.mark.parametrize("seed", SEEDS)
async def test_both_ways_of_following_show_what_the_agent_shows(place: Place, seed: int):
    chance = random.Random(seed)
    agents = [place.agents["alpha"], place.agents["beta"]]
    alpha = agents[0]
    config = load({**alpha.environment, "SERVICE_REGISTRY_URL": alpha.url}, alpha.directory)
    async with (
        Mesh.connect(config=config) as asking,
        Mesh.connect(nats=place.server.url, config=config) as following,
    ):
        for _ in range(STEPS):
            await asyncio.to_thread(step, agents, chance)

        def agree() -> bool:
            return by_agent(alpha) == by_agent(agents[1]) == by_program(asking) == by_program(following)

        async with asyncio.timeout(SOON_S):
            while not await asyncio.to_thread(agree):
                await asyncio.sleep(0.05)
        assert by_program(asking)
        for capability in ("rag", "stt", "gpu"):
            found = [one.key for one in await asking.discover(capability)]
            assert found == [one.key for one in await following.discover(capability)]
            shown = alpha.post("/api/discover", [capability]).body["services"]
            assert found == [(one["name"], one["node"], one["id"]) for one in shown]


async def test_the_instances_of_a_lost_node_are_found_no_more_and_listed_on(tmp_path: Path):
    with mesh_in(tmp_path) as place:
        alpha, beta = (place.started(node, PMOVES_LEASE_TTL_S="2") for node in ("alpha", "beta"))
        beta.register("fragile", host="127.0.0.1", port=1, capabilities=["rag"])
        config = load({**alpha.environment, "SERVICE_REGISTRY_URL": alpha.url}, alpha.directory)
        async with (
            Mesh.connect(config=config) as asking,
            Mesh.connect(nats=place.server.url, config=config) as following,
        ):
            for mesh in (asking, following):
                async with asyncio.timeout(SOON_S):
                    while not await mesh.discover("rag"):
                        await asyncio.sleep(0.01)
            await asyncio.to_thread(beta.kill)
            for mesh in (asking, following):
                async with asyncio.timeout(SOON_S):
                    while await mesh.discover("rag"):
                        await asyncio.sleep(0.01)
                with pytest.raises(ServiceNotFound):
                    mesh.resolve("fragile")
                assert [one["node_status"] for one in by_program(mesh)] == ["lost"]
