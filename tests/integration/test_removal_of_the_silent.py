"""Removal: how long an instance stays registered while it is unhealthy, as its check allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from care_support import Cared, cared
from http_support import eventually
from ports import free_port

from pmoves_mesh.core.check import TtlCheck, asks_alike


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Cared]:
    async with cared(tmp_path) as made:
        yield made


async def is_gone(node: Cared) -> bool:
    return await node.health() == ("", "")


async def becomes_unhealthy(node: Cared) -> None:
    async def found() -> bool:
        return (await node.health())[0] == "unhealthy"

    await eventually(found, "unhealthy")


async def test_whoever_falls_silent_is_unhealthy_and_then_gone(node: Cared):
    await node.register(check={"type": "ttl", "ttl_s": 1, "remove_after_s": 1})
    await becomes_unhealthy(node)
    await eventually(lambda: is_gone(node), "gone")


async def test_whoever_says_that_it_is_unhealthy_is_alive_and_stays(node: Cared):
    await node.register(check={"type": "ttl", "ttl_s": 1, "remove_after_s": 1})
    loop = asyncio.get_running_loop()
    until = loop.time() + 3
    while loop.time() < until:
        said = await node.put("/api/services/rag/health", status="unhealthy", output="loading")
        assert said.status == 200
        await asyncio.sleep(0.05)
    assert await node.health() == ("unhealthy", "loading")


async def test_an_instance_that_nothing_answers_for_is_gone_when_its_time_is_over(node: Cared):
    check = {"type": "tcp", "interval_s": 1, "timeout_s": 0.5, "fall": 1, "remove_after_s": 1}
    await node.register(port=free_port(), check=check)
    await becomes_unhealthy(node)
    await eventually(lambda: is_gone(node), "gone")


async def test_without_a_limit_an_unhealthy_instance_stays(node: Cared):
    await node.register(id="limited", check={"type": "ttl", "ttl_s": 1, "remove_after_s": 1})
    await node.register(id="patient", check={"type": "ttl", "ttl_s": 1})

    async def one_left() -> bool:
        found = (await node.ask("GET", "/api/services?name=rag")).body["services"]
        return [one["id"] for one in found] == ["patient"]

    await eventually(one_left, "only the patient one is left")
    assert await node.health(instance_id="patient") == ("unhealthy", "no report for 1 s")


def test_another_limit_asks_the_same_so_what_was_found_holds():
    assert asks_alike(TtlCheck(ttl_s=1, remove_after_s=5), TtlCheck(ttl_s=1))
