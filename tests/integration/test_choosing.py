"""Discovery with conditions and preferences over HTTP, where the test tells what is found out of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from builders import announced, instance, left, registered
from http_support import HOST, Served, served

from pmoves_mesh.core.load import LoadView
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.shapes import FoundList

GPU = {"gpu": [{"vendor": "nvidia", "memory_gb": 24}]}


@dataclass
class Surveyor:
    """Tells what it is given; whoever asks waits until it may answer."""

    told: dict[str, LoadView] = field(default_factory=dict)
    ways_ms: dict[str, float] = field(default_factory=dict)
    asked: list[set[str]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def loads(self, nodes: Collection[str]) -> Mapping[str, LoadView]:
        return await self._answer(nodes, self.told)

    async def looks(self, node: str) -> Mapping[str, str] | None:
        return {"gamma": "nothing answers"} if node == "beta" else None

    async def round_trips_ms(self, nodes: Collection[str]) -> Mapping[str, float]:
        return await self._answer(nodes, self.ways_ms)

    async def _answer(self, nodes: Collection[str], told: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(set(nodes))
        await self.open.wait()
        return {node: told[node] for node in nodes if node in told}


@dataclass
class Asked:
    """A mesh of three nodes with a GPU and one without, each with an instance of `rag`."""

    mesh: Served
    surveyor: Surveyor
    port: int
    session: aiohttp.ClientSession

    async def discover(self, **body: Any) -> dict[str, Any]:
        url = f"http://{HOST}:{self.port}/api/discover"
        async with self.session.post(url, json=body) as response:
            raw = await response.read()
            assert response.status == 200, raw
            msgspec.json.decode(raw, type=FoundList)
            found: dict[str, Any] = msgspec.json.decode(raw)
            return found

    async def nodes(self, **body: Any) -> list[str]:
        return [one["node"] for one in (await self.discover(**body))["services"]]


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    async with served(tmp_path) as mesh:
        for node in ("beta", "delta", "gamma", "plain"):
            await mesh.tell(
                announced(1, node=node, resources={} if node == "plain" else GPU),
                registered(2, instance("rag", node, port=80, capabilities=("rag",))),
            )
        surveyor = Surveyor()
        surveyor.open.set()
        facade = replace(mesh.facade, surveyor=surveyor)
        async with serving(facade, HOST, 0) as port, aiohttp.ClientSession() as session:
            yield Asked(mesh, surveyor, port, session)


def load(share: float, *, stale: bool = False) -> LoadView:
    return LoadView(cpu=share, memory=0.1, gpu=share, age_s=1.5, stale=stale)


async def test_conditions_alone_are_enough_and_nobody_is_surveyed_for_them(asked: Asked):
    assert await asked.nodes(where={"resources.gpu.memory_gb": {"gte": 8}}) == ["beta", "delta", "gamma"]
    assert await asked.nodes(where={}) == ["beta", "delta", "gamma", "plain"]
    found = await asked.discover(where={}, limit=2)
    assert (found["count"], len(found["services"])) == (2, 2)
    assert "load" not in found["services"][0]
    assert not asked.surveyor.asked


async def test_only_the_nodes_that_match_are_surveyed_and_what_decided_is_shown(asked: Asked):
    asked.surveyor.told = {"beta": load(0.9), "gamma": load(0.2), "delta": load(0.0, stale=True)}
    where = {"resources.gpu": {"exists": True}}
    found = await asked.discover(where=where, prefer="least_loaded")
    assert [one["node"] for one in found["services"]] == ["gamma", "beta", "delta"]
    assert asked.surveyor.asked == [{"beta", "gamma", "delta"}]
    assert found["services"][0]["load"] == {
        "cpu": 0.2,
        "memory": 0.1,
        "gpu": 0.2,
        "age_s": 1.5,
        "stale": False,
    }
    assert found["services"][2]["load"]["stale"] is True


async def test_the_nearest_are_shown_with_the_way_to_them(asked: Asked):
    asked.surveyor.ways_ms = {"beta": 80.0, "gamma": 1.5}
    found = await asked.discover(capabilities="rag", prefer="nearest")
    ways = [(one["node"], one["round_trip_ms"]) for one in found["services"]]
    assert ways == [("gamma", 1.5), ("beta", 80.0), ("delta", None), ("plain", None)]


async def test_what_leaves_while_nodes_are_surveyed_is_not_found(asked: Asked):
    asked.surveyor.open.clear()
    asked.surveyor.ways_ms = dict.fromkeys(("beta", "delta", "gamma", "plain"), 1.0)
    asking = asyncio.create_task(asked.nodes(capabilities="rag", prefer="nearest"))
    async with asyncio.timeout(10):
        while not asked.surveyor.asked:
            await asyncio.sleep(0.001)
    await asked.mesh.tell(left(3, "beta"))
    asked.surveyor.open.set()
    assert await asking == ["delta", "gamma", "plain"]


async def test_a_mesh_that_surveys_nobody_prefers_its_own_order(asked: Asked):
    found = await asked.mesh.ask("POST", "/api/discover", json={"capabilities": ["rag"], "prefer": "nearest"})
    assert [one["node"] for one in found.body["services"]] == ["beta", "delta", "gamma", "plain"]
    assert (await asked.mesh.get("/api/nodes/beta/load")).body == {
        "name": "beta",
        "load": None,
        "reaches": None,
    }


async def test_the_load_of_a_node_has_a_route_of_its_own(asked: Asked):
    asked.surveyor.told = {"beta": load(0.5)}
    url = f"http://{HOST}:{asked.port}/api/nodes"
    async with asked.session.get(f"{url}/BETA/load") as response:
        assert response.status == 200
        shown = await response.json()
    assert shown["reaches"] == {"gamma": "nothing answers"}
    assert shown["load"] == {"cpu": 0.5, "memory": 0.1, "gpu": 0.5, "age_s": 1.5, "stale": False}
    await asked.mesh.tell(left(3, "beta"))
    async with asked.session.get(f"{url}/beta/load") as response:
        assert (await response.json())["load"] is None
    async with asked.session.get(f"{url}/nobody/load") as response:
        assert response.status == 404
    assert asked.surveyor.asked == [{"beta"}]
