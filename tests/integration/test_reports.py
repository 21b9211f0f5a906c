"""Services that report by themselves: what a report changes, and what its absence does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from builders import instance, registered
from care_support import Cared, cared
from http_support import eventually

TTL = {"type": "ttl", "ttl_s": 1}
LONG = {"type": "ttl", "ttl_s": 600}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Cared]:
    async with cared(tmp_path) as made:
        yield made


def statuses(node: Cared) -> list[str]:
    """Returns the health status in each event of the stream about a change of health."""
    messages, _ = node.node.broker.after(0, 1000)
    return [
        msgspec.json.decode(one.sealed.payload)["data"]["health_status"]
        for one in messages
        if one.sealed.subject == "service.registry.health"
    ]


async def becomes(node: Cared, status: str, output: str) -> None:
    async def found() -> bool:
        return await node.health() == (status, output)

    await eventually(found, f"{status}: {output}")


async def test_a_report_counts_at_once_and_only_a_change_is_in_the_stream(node: Cared):
    await node.register(check=LONG)
    assert await node.health() == ("unknown", "")
    first = await node.put("/api/services/rag/health", status="healthy", output="3 workers")
    assert (first.status, first.body["status"]) == (200, "reported")
    assert first.body["service"]["health_output"] == "3 workers"
    again = await node.put("/api/services/rag/health", status="healthy", output="4 workers")
    assert (again.status, again.body["service"]["health_output"]) == (200, "3 workers")
    ill = await node.put("/api/services/rag/health", status="unhealthy", output="no workers")
    assert ill.body["service"]["health_status"] == "unhealthy"
    assert ill.position == node.node.broker.bounds().last
    assert statuses(node) == ["healthy", "unhealthy"]


async def test_an_instance_that_does_not_report_is_unhealthy_until_it_does(node: Cared):
    await node.register(check=TTL)
    await becomes(node, "unhealthy", "no report for 1 s")
    await node.put("/api/services/rag/health", status="healthy")
    assert await node.health() == ("healthy", "")
    await becomes(node, "unhealthy", "no report for 1 s")
    assert statuses(node) == ["unhealthy", "healthy", "unhealthy"]


async def test_an_instance_that_reports_in_time_stays_healthy(node: Cared):
    await node.register(check=TTL)
    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < 2.5:
        await node.put("/api/services/rag/health", status="healthy")
        await asyncio.sleep(0.05)
    assert statuses(node) == ["healthy"]


async def test_of_two_instances_the_one_that_is_named_reports(node: Cared):
    await node.register(id="one", check=LONG)
    await node.register(id="two", check=LONG)
    unnamed = await node.put("/api/services/rag/health", status="healthy")
    assert (unnamed.status, unnamed.body["field"]) == (422, "id")
    named = await node.put("/api/services/rag/health?id=two", status="healthy")
    assert (named.status, named.body["service"]["id"]) == (200, "two")
    assert (await node.health(instance_id="one"))[0] == "unknown"


async def test_an_instance_that_is_probed_does_not_report(node: Cared):
    await node.register(port=1, check={"type": "tcp", "interval_s": 3600})
    answer = await node.put("/api/services/rag/health", status="healthy")
    assert (answer.status, answer.body["field"]) == (422, "id")


async def test_a_report_about_another_nodes_instance_is_refused_with_its_owner(node: Cared):
    await node.node.tell(registered(1, instance("far", "beta")))
    answer = await node.put("/api/services/far/health", status="healthy")
    assert (answer.status, answer.body["nodes"]) == (409, ["beta"])
    assert (await node.put("/api/services/none/health", status="healthy")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "body"),
        ({"status": "unknown"}, 422, "status"),
        ({"status": "healthy", "output": 7}, 422, "output"),
        ({"status": "healthy", "output": "x" * 4097}, 422, "output"),
    ],
)
async def test_a_bad_report_names_its_field(node: Cared, body: dict[str, object], status: int, field: str):
    await node.register(check=LONG)
    answer = await node.put("/api/services/rag/health", **body)
    assert (answer.status, answer.body["field"]) == (status, field)


async def test_without_the_log_a_report_is_accepted_and_found_here(node: Cared):
    await node.register(check=LONG)
    node.node.client.disconnect()
    answer = await node.put("/api/services/rag/health", status="healthy")
    assert (answer.status, answer.body["service"]["health_status"]) == (202, "healthy")


async def test_after_a_restart_an_instance_has_its_whole_time_again(tmp_path: Path):
    async with cared(tmp_path) as node:
        await node.register(check=TTL)
        await node.put("/api/services/rag/health", status="healthy")
    async with cared(tmp_path) as node:
        (held,) = node.node.registrations.held.values()
        assert held.record.health_status == "healthy"
        begin_s = time.perf_counter()

        async def condemned() -> bool:
            (held,) = node.node.registrations.held.values()
            return held.record.health_status == "unhealthy"

        await eventually(condemned, "it does not report any more")
        assert time.perf_counter() - begin_s > 0.9


async def test_an_agent_that_was_held_up_gives_one_more_time(node: Cared):
    await node.register(check=TTL)
    await node.put("/api/services/rag/health", status="healthy")
    until_s = time.perf_counter() + 1.6
    while time.perf_counter() < until_s:
        pass
    woken_s = time.perf_counter()
    await becomes(node, "unhealthy", "no report for 1 s")
    assert time.perf_counter() - woken_s > 0.9
    assert statuses(node) == ["healthy", "unhealthy"]


async def test_an_instance_that_is_gone_is_awaited_no_more(node: Cared):
    await node.register(check=TTL)
    await node.ask("DELETE", "/api/services/rag")
    await node.register(id="two", check=TTL)
    await becomes(node, "unhealthy", "no report for 1 s")
    assert statuses(node) == ["unhealthy"]
