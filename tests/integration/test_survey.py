"""What is found out about other nodes: only from leases that they signed, and never at the asker's cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from builders import MESH, NOW_MS, announced
from http_support import NODE, PinnedClock, Served, served

from pmoves_mesh.agent.resources.meter import Meter
from pmoves_mesh.agent.resources.survey import Survey
from pmoves_mesh.core import lease
from pmoves_mesh.core.lease import Lease, Look
from pmoves_mesh.core.load import Load
from pmoves_mesh.log.memory import MemoryBucket

OWN, BETA = Load(cpu=0.1, memory=0.2), Load(cpu=0.3, memory=0.4, gpu=0.5)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as mesh:
        yield mesh


@asynccontextmanager
async def surveying(mesh: Served) -> AsyncIterator[tuple[Survey, MemoryBucket]]:
    clock = PinnedClock()
    meter = Meter(lambda: OWN, clock, ttl_s=10)
    leases = MemoryBucket(mesh.client, "leases")
    survey = Survey(NODE, meter, mesh.replica, leases, clock)
    running = [asyncio.create_task(loop()) for loop in (meter.run, survey.run)]
    try:
        async with asyncio.timeout(10):
            while meter.load is None:
                await asyncio.sleep(0.001)
        yield survey, leases
    finally:
        for task in running:
            task.cancel()


def sealed(mesh: Served, node: str, load: Load | None, *, by: str = "") -> bytes:
    """Returns a node's lease, signed by itself unless somebody else is named."""
    said = Lease(node=node, incarnation=1, holder="0" * 16, host="10.0.0.2", time_ms=NOW_MS, load=load)
    return lease.seal(said, MESH, mesh.authority.identity(by or node))


async def test_the_load_of_a_node_is_what_its_own_lease_says(mesh: Served):
    async with surveying(mesh) as (survey, leases):
        await leases.put("beta", sealed(mesh, "beta", BETA))
        await leases.put("silent", sealed(mesh, "silent", None))
        found = await survey.loads([NODE, "beta", "silent", "absent"])
        assert found.keys() == {NODE, "beta"}
        assert (found["beta"].cpu, found["beta"].gpu, found["beta"].stale) == (0.3, 0.5, False)
        assert (found[NODE].cpu, found[NODE].stale) == (0.1, False)


async def test_whom_a_node_reaches_stands_in_its_lease_too(mesh: Served):
    looks = {NODE: Look(host="10.0.0.1"), "gamma": Look(host="10.0.0.3", problem="nothing answers")}
    said = Lease(node="beta", incarnation=1, holder="0" * 16, host="10.0.0.2", time_ms=NOW_MS, looks=looks)
    async with surveying(mesh) as (survey, leases):
        await leases.put("beta", lease.seal(said, MESH, mesh.authority.identity("beta")))
        assert await survey.looks("beta") == {NODE: "", "gamma": "nothing answers"}
        assert await survey.looks("absent") is None
        assert await survey.loads(["beta"]) == {}


async def test_a_load_that_another_node_or_nobody_signed_is_none(mesh: Served):
    async with surveying(mesh) as (survey, leases):
        await leases.put("beta", sealed(mesh, "beta", BETA, by="gamma"))
        await leases.put("delta", b'{"cpu": 0}')
        changed = sealed(mesh, "epsilon", BETA).replace(b'"cpu":0.3', b'"cpu":0.0')
        await leases.put("epsilon", changed)
        assert await survey.loads(["beta", "delta", "epsilon"]) == {}


async def test_a_load_out_of_bounds_spoils_its_lease(mesh: Served):
    async with surveying(mesh) as (survey, leases):
        await leases.put("beta", sealed(mesh, "beta", Load(cpu=7.0, memory=0.0)))
        assert await survey.loads(["beta"]) == {}


async def test_where_the_leases_cannot_be_reached_an_asker_does_not_wait(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.agent.resources.survey._LOADS_WAIT_S", 60.0)
    async with surveying(mesh) as (survey, _):
        mesh.client.disconnect()
        async with asyncio.timeout(10):
            assert (await survey.loads([NODE, "beta"])).keys() == {NODE}


async def test_nodes_that_never_said_where_they_are_have_no_distance(mesh: Served):
    await mesh.tell(announced(1, node="beta", host="127.0.0.1", port=0))
    async with surveying(mesh) as (survey, _):
        assert await survey.round_trips_ms([NODE, "beta", "absent"]) == {NODE: 0.0}


async def test_a_node_that_must_not_be_asked_has_no_distance(mesh: Served):
    await mesh.tell(announced(1, node="beta", host="169.254.169.254", port=80))
    async with surveying(mesh) as (survey, _):
        assert await survey.round_trips_ms(["beta"]) == {}


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
async def test_a_name_that_no_host_can_have_has_no_distance_and_the_survey_goes_on(mesh: Served, host: str):
    await mesh.tell(announced(1, node="beta", host=host, port=80))
    await mesh.tell(announced(1, node="gamma", host="127.0.0.1", port=mesh.port))
    async with surveying(mesh) as (survey, _):
        assert await survey.round_trips_ms(["beta"]) == {}
        assert (await survey.round_trips_ms(["beta", "gamma"])).keys() == {"gamma"}


async def test_a_node_that_is_reached_has_a_distance(mesh: Served):
    await mesh.tell(announced(1, node="beta", host="127.0.0.1", port=mesh.port))
    async with surveying(mesh) as (survey, _):
        assert 0 < (await survey.round_trips_ms(["beta"]))["beta"] < 100
