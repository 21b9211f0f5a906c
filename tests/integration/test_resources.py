"""What a host has is announced by real agents, and found by others; what is in use of it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machines
import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in

from pmoves_mesh import Mesh as Sdk
from pmoves_mesh.config import load
from pmoves_mesh.errors import InvalidFieldError

WITH_GPU = {"resources.gpu.memory_gb": {"gte": 8}}


@contextmanager
def mesh_of_three(folder: Path) -> Iterator[Mesh]:
    """A PC without a GPU, a host with a large AMD card, and a Jetson, each with the same service."""
    roots = {
        "pc": machines.host(folder / "pc-root", cores=16, memory_gb=31.2),
        "gpubox": machines.amd_card(machines.host(folder / "gpubox-root", cores=32, memory_gb=125.6)),
        "jetson": machines.jetson(folder / "jetson-root"),
    }
    with mesh_in(folder) as mesh:
        for node, root in roots.items():
            agent = mesh.started(node, PMOVES_HOST_ROOT=str(root), PMOVES_LEASE_TTL_S="2")
            agent.register("whisper", port=9000, capabilities=["stt"], metadata={"model": f"on-{node}"})
        mesh.agree()
        yield mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_of_three(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh that a test may spoil."""
    with mesh_of_three(tmp_path) as mesh:
        yield mesh


def uses(mesh: Mesh, **shares: float) -> None:
    """Lets hosts have so much of their memory in use; their CPUs stand still."""
    sizes_gb = {"pc": 31.2, "gpubox": 125.6, "jetson": 7.44}
    for node, share in shares.items():
        whole_gb = sizes_gb[node]
        root = mesh.directory / f"{node}-root"
        machines.memory(root, memory_gb=whole_gb, available_gb=whole_gb * (1 - share))


def nodes_of(agent: AgentProcess, **asked: Any) -> list[str]:
    """Returns the nodes of the instances that an agent finds, in its order."""
    answer = agent.post("/api/discover", {"capabilities": ["stt"], **asked})
    assert answer.status == 200, answer.text
    assert answer.body["count"] == len(answer.body["services"])
    return [one["node"] for one in answer.body["services"]]


def load_of(agent: AgentProcess, node: str) -> dict[str, Any] | None:
    """Returns how much of a node is in use, as an agent shows it."""
    load: dict[str, Any] | None = agent.get(f"/api/nodes/{node}/load").body["load"]
    return load


def test_what_a_host_has_is_announced_as_resources_and_as_capabilities(mesh: Mesh):
    seen = {one["name"]: one for one in mesh.agents["pc"].get("/api/nodes").body["nodes"]}
    assert seen["pc"]["resources"]["cpu_cores"] == 16
    assert seen["pc"]["resources"]["memory_gb"] == 31
    assert seen["pc"]["resources"]["disk_gb"] > 0
    assert "gpu" not in seen["pc"]["capabilities"]
    (card,) = seen["gpubox"]["resources"]["gpu"]
    assert (card["vendor"], card["memory_gb"], card["runtime"]) == ("amd", 24, "rocm")
    assert {"gpu", "rocm", "vram:24gb"} <= set(seen["gpubox"]["capabilities"])
    assert {"gpu", "cuda", "jetson"} <= set(seen["jetson"]["capabilities"])
    assert seen["jetson"]["resources"]["board"] == "NVIDIA Jetson Orin Nano Developer Kit"


def test_every_agent_finds_the_same_nodes_by_what_they_have(mesh: Mesh):
    for agent in mesh.agents.values():
        assert nodes_of(agent, where=WITH_GPU) == ["gpubox"]
        assert sorted(nodes_of(agent, where={"resources.gpu": {"exists": True}})) == ["gpubox", "jetson"]
        assert nodes_of(agent, where={"resources.gpu": {"exists": False}}) == ["pc"]
        assert nodes_of(agent, where={"node_capabilities": "cuda"}) == ["jetson"]
        assert nodes_of(agent, where={"resources.cpu_cores": {"gte": 16, "lt": 32}}) == ["pc"]
        assert nodes_of(agent, where={"metadata.model": {"in": ["on-pc", "on-moon"]}}) == ["pc"]
        assert nodes_of(agent, where={"resources.gpu.memory_gb": {"gt": 24}}) == []


def test_the_least_loaded_node_is_taken_by_what_its_lease_says(mesh: Mesh):
    pc = mesh.agents["pc"]
    uses(mesh, pc=0.9, gpubox=0.2, jetson=0.5)
    wanted = ["gpubox", "jetson", "pc"]
    eventually(lambda: nodes_of(pc, prefer="least_loaded") == wanted, "the load of all nodes has arrived")
    assert nodes_of(pc, prefer="least_loaded", limit=1) == ["gpubox"]
    uses(mesh, gpubox=0.99)
    wanted = ["jetson", "pc", "gpubox"]
    eventually(lambda: nodes_of(pc, prefer="least_loaded") == wanted, "a change of load has arrived")


def test_the_load_of_the_gpu_counts_where_a_gpu_is_asked_for(mesh: Mesh):
    pc, where = mesh.agents["pc"], {"resources.gpu": {"exists": True}}
    # The Jetson's GPU is used by a quarter, as is its memory; the other's by 40 percent.
    uses(mesh, gpubox=0.1, jetson=0.25)

    def shown() -> list[tuple[str, float]]:
        found = pc.post("/api/discover", {"where": where, "prefer": "least_loaded"}).body["services"]
        assert not any(one["load"]["stale"] for one in found if one["load"])
        return [(one["node"], (one["load"] or {}).get("gpu")) for one in found]

    eventually(lambda: shown() == [("jetson", 0.25), ("gpubox", 0.4)], "the GPUs' loads decide")


def test_no_load_enters_the_stream(mesh: Mesh):
    pc = mesh.agents["pc"]
    before = pc.get("/api/nodes/gpubox").body
    uses(mesh, gpubox=0.8)
    eventually(lambda: (load_of(pc, "gpubox") or {}).get("memory") == 0.8, "the load has arrived")
    after = pc.get("/api/nodes/gpubox").body
    assert {**after, "last_seen": ""} == {**before, "last_seen": ""}
    assert after["revision"] > 0


def test_a_load_that_is_no_longer_told_is_stale_and_decides_nothing(doomed: Mesh):
    pc, gpubox = doomed.agents["pc"], doomed.agents["gpubox"]
    eventually(lambda: load_of(pc, "gpubox") is not None, "the load has arrived")
    doomed.server.kill()
    gpubox.kill()
    eventually(lambda: (load_of(pc, "gpubox") or {}).get("stale") is True, "the load is stale")
    assert nodes_of(pc, prefer="least_loaded")[0] == "pc"
    assert nodes_of(pc, where=WITH_GPU, prefer="least_loaded") == ["gpubox"]


def test_the_nearest_node_is_the_own_one_and_every_way_was_measured(mesh: Mesh):
    pc = mesh.agents["pc"]
    assert nodes_of(pc, prefer="nearest")[0] == "pc"

    def ways() -> dict[str, float | None]:
        shown = pc.post("/api/discover", {"capabilities": ["stt"], "prefer": "nearest"}).body["services"]
        return {one["node"]: one["round_trip_ms"] for one in shown}

    eventually(lambda: None not in ways().values(), "every way is measured")
    by_node = {node: taken or 0.0 for node, taken in ways().items()}
    assert by_node["pc"] == 0
    assert 0 < by_node["gpubox"] < 100
    assert 0 < by_node["jetson"] < 100


async def test_a_program_asks_the_same(mesh: Mesh):
    pc = mesh.agents["pc"]
    config = load({**pc.environment, "SERVICE_REGISTRY_URL": pc.url}, pc.directory)
    async with Sdk.connect(config=config) as program:
        assert [one.node for one in await program.discover("stt", where=WITH_GPU)] == ["gpubox"]
        assert [one.node for one in await program.discover(name="whisper", where={"node": "jetson"})] == [
            "jetson"
        ]
        assert await program.discover(name="rag", where=WITH_GPU) == []
        assert [one.node for one in await program.discover("stt", prefer="nearest", limit=1)] == ["pc"]
        assert len(await program.discover("stt", limit=2)) == 2
        with pytest.raises(InvalidFieldError, match=r"where: 'colour' does not begin"):
            await program.discover(where={"colour": "red"})
    with Sdk.connect_sync(config=config) as program:
        assert [one.node for one in program.discover("stt", where=WITH_GPU, limit=1)] == ["gpubox"]


def test_the_command_line_asks_the_same(mesh: Mesh):
    pc = mesh.agents["pc"]
    found = pc.run(
        *("discover", "stt", "--where", "resources.gpu.memory_gb>=8", "--prefer", "least_loaded"),
        *("--limit", "1", "--json"),
    )
    assert found.returncode == 0, found.stderr
    assert '"node": "gpubox"' in found.stdout
    nodes = pc.run("nodes").stdout
    assert "16 cores, 31 GB\t" in nodes
    assert "32 cores, 126 GB, AMD 0x744c 24 GB\t" in nodes
    shown = pc.run("discover", "stt", "--prefer", "least_loaded")
    assert shown.stdout.splitlines()[0].endswith("\tLOAD")
    assert "cpu=0.0, memory=0." in shown.stdout
    every = pc.run("discover", "--where", "!resources.gpu")
    assert [line.split("\t")[2] for line in every.stdout.splitlines()[1:]] == ["pc"]
    wrong = pc.run("discover", "--where", "resources.gpu.memory_gb=>8")
    assert wrong.returncode == 2
    assert "resources.gpu.memory_gb=>8" in wrong.stderr
    refused = pc.run("discover", "--where", "colour=red")
    assert refused.returncode == 1
    assert "'colour'" in refused.stderr
