"""The prober on a real node's registrations: whom it probes, what it states, and when it doubts itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import instance, registered
from http_support import DEADLINE_S, PinnedClock, Served, served
from probe_targets import HOST, Target, says, target

from pmoves_mesh.agent.health.http_probe import HttpProbe
from pmoves_mesh.agent.health.prober import Prober
from pmoves_mesh.agent.health.probes import Probe
from pmoves_mesh.core.check import Check, TcpCheck
from pmoves_mesh.core.health import Finding, Pace
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import StoreError

PACE = Pace(interval_s=0.03, timeout_s=0.5)
PASSED = Finding(passed=True, output="HTTP 200")
FAILED = Finding(passed=False, output="HTTP 503")
SILENT = Finding(passed=False, output="timed out after 5 s", answered=False)
URL = "http://127.0.0.1:9/"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


class Scripted:
    """A probe that finds what it is told to, and counts whom it asked.

    Attributes:
        finds: by the instance's id; what is not in it passes.
    """

    def __init__(self) -> None:
        self.finds: dict[str, Finding] = {}
        self.asked: dict[InstanceKey, int] = {}

    async def __call__(self, one: Instance, _: Check) -> Finding:
        self.asked[one.key] = self.asked.get(one.key, 0) + 1
        return self.finds.get(one.id, PASSED)


@asynccontextmanager
async def probing(node: Served, probe: Probe, pace: Pace = PACE) -> AsyncIterator[Prober]:
    prober = Prober(node.registrations, PinnedClock(), probe, seed="alpha", pace=pace)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(prober.run())
        try:
            yield prober
        finally:
            running.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def register(node: Served, instance_id: str = "1", **fields: Any) -> InstanceKey:
    wanted = {"name": "rag", "id": instance_id, "host": HOST, "health_url": URL, **fields}
    receipt = await node.registrations.register(Registration(**wanted))
    return receipt.instance.key


def record(node: Served, key: InstanceKey) -> Instance:
    """Returns an instance as the replica shows it."""
    entry = node.replica.registry.entry(key)
    assert entry is not None
    return entry.record


async def becomes(node: Served, key: InstanceKey, status: str) -> None:
    await until(lambda: record(node, key).health_status == status)


async def rounds(probe: Scripted, key: InstanceKey, count: int) -> None:
    """Waits until an instance was probed a number of times more, and what that found is judged."""
    enough = probe.asked.get(key, 0) + count + 1
    await until(lambda: probe.asked.get(key, 0) >= enough)


def stated(node: Served, key: InstanceKey) -> list[tuple[str, str]]:
    """Returns the subject and the health status of each event in the stream about an instance."""
    messages, _ = node.broker.after(0, 10_000)
    events = [(one.sealed.subject, msgspec.json.decode(one.sealed.payload)) for one in messages]
    return [
        (subject.removeprefix("service.registry."), event["data"]["health_status"])
        for subject, event in events
        if subject.startswith("service.") and (event["service"], event["data"]["id"]) == (key.service, key.id)
    ]


# What it states


async def test_a_service_is_healthy_with_its_first_answer_and_unhealthy_when_its_server_stops(node: Served):
    async with HttpProbe(()) as probe, probing(node, probe):
        async with target(says(200, "all is well")) as server:
            key = await register(node, health_url=server.url)
            await becomes(node, key, "healthy")
            assert record(node, key).health_output == "HTTP 200"
        await becomes(node, key, "unhealthy")
        assert record(node, key).health_output == "refused"
        async with target(says(200), port=server.port):
            await becomes(node, key, "healthy")


async def test_only_transitions_are_in_the_stream(node: Served):
    probe = Scripted()
    async with probing(node, probe):
        key = await register(node)
        await becomes(node, key, "healthy")
        await rounds(probe, key, 5)
        probe.finds["1"] = FAILED
        await becomes(node, key, "unhealthy")
        probe.finds["1"] = Finding(passed=False, output="HTTP 500")
        await rounds(probe, key, 5)
        del probe.finds["1"]
        await becomes(node, key, "healthy")
        await rounds(probe, key, 5)
    assert stated(node, key) == [
        ("registered", "unknown"),
        ("health", "healthy"),
        ("health", "unhealthy"),
        ("health", "healthy"),
    ]


async def test_three_failures_and_no_fewer_make_an_instance_unhealthy(node: Served):
    probe = Scripted()
    probe.finds["1"] = FAILED
    async with probing(node, probe):
        key = await register(node)
        await becomes(node, key, "unhealthy")
    assert probe.asked[key] >= 3
    assert stated(node, key) == [("registered", "unknown"), ("health", "unhealthy")]


async def test_what_must_not_be_probed_is_unknown_and_says_why_once(node: Served):
    async with HttpProbe(()) as probe, probing(node, probe):
        key = await register(node, health_url="http://169.254.169.254/latest/meta-data/")
        await until(lambda: record(node, key).health_output.startswith("not probed: "))
        ok = await register(node, "2", health_url=f"http://{HOST}:{node.port}/healthz")
        await becomes(node, ok, "healthy")
    assert stated(node, key) == [("registered", "unknown"), ("health", "unknown")]


async def test_health_that_cannot_be_written_is_stated_after_a_later_probe(
    node: Served, monkeypatch: pytest.MonkeyPatch
):
    probe, failed = Scripted(), 0
    key = await register(node)
    state = node.registrations._author.state

    async def full(*arguments: Any, **options: Any) -> Any:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise StoreError("mesh.db", "database or disk is full")
        return await state(*arguments, **options)

    monkeypatch.setattr(node.registrations._author, "state", full)
    async with probing(node, probe):
        await becomes(node, key, "healthy")
    assert failed == 3
    assert stated(node, key) == [("registered", "unknown"), ("health", "healthy")]


# Whom it probes


async def test_instances_of_other_nodes_and_those_without_a_url_are_never_probed(node: Served):
    probe = Scripted()
    await node.tell(registered(1, instance("far", "beta", health_url=URL)))
    await register(node, "silent", health_url=None)
    async with probing(node, probe) as prober:
        key = await register(node)
        await rounds(probe, key, 5)
        assert prober.probed == 1
    assert set(probe.asked) == {key}


async def test_an_instance_that_is_gone_is_probed_no_more(node: Served):
    probe = Scripted()
    async with probing(node, probe) as prober:
        gone, stays = await register(node, "1"), await register(node, "2")
        await rounds(probe, gone, 1)
        await node.registrations.deregister("rag", instance_id="1")
        await until(lambda: prober.probed == 1)
        await rounds(probe, stays, 1)
        asked = probe.asked[gone]
        await rounds(probe, stays, 5)
        assert probe.asked[gone] == asked


async def test_what_a_probe_finds_of_an_instance_that_went_meanwhile_is_not_stated(node: Served):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> Finding:
        begun.set()
        await go_on.wait()
        return PASSED

    async with probing(node, slow, Pace(interval_s=0.03)):
        key = await register(node)
        await begun.wait()
        await node.registrations.deregister("rag")
        go_on.set()
        other = await register(node, "2")
        await becomes(node, other, "healthy")
    assert [kind for kind, _ in stated(node, key)] == ["registered", "deregistered", "unregistered"]


async def test_another_url_begins_health_anew_and_any_other_update_keeps_it(node: Served):
    probe = Scripted()
    async with probing(node, probe):
        key = await register(node)
        await becomes(node, key, "healthy")
        await register(node, port=8087)
        await rounds(probe, key, 3)
        probe.finds["1"] = FAILED
        await register(node, health_url=f"{URL}other")
        await becomes(node, key, "unhealthy")
    assert stated(node, key) == [
        ("registered", "unknown"),
        ("health", "healthy"),
        ("updated", "healthy"),
        ("updated", "unknown"),
        ("health", "unhealthy"),
    ]


async def test_what_an_earlier_run_found_holds_until_probes_say_otherwise(node: Served):
    probe = Scripted()
    async with probing(node, probe):
        key = await register(node)
        await becomes(node, key, "healthy")
    async with probing(node, probe):
        await rounds(probe, key, 5)
    probe.finds["1"] = FAILED
    async with probing(node, probe):
        await becomes(node, key, "unhealthy")
    assert stated(node, key) == [("registered", "unknown"), ("health", "healthy"), ("health", "unhealthy")]


async def test_each_instance_is_probed_at_its_own_pace(node: Served):
    probe = Scripted()
    probe.finds = {"fast": FAILED, "slow": FAILED}
    fast, slow = (
        TcpCheck(interval_s=interval_s, timeout_s=0.5, fall=fall)
        for interval_s, fall in ((0.02, 9), (0.4, 1))
    )
    prober = Prober(node.registrations, PinnedClock(), probe, seed="alpha")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(prober.run())
        often = await register(node, "fast", check=fast, port=1)
        rarely = await register(node, "slow", check=slow, port=1)
        await becomes(node, rarely, "unhealthy")
        await becomes(node, often, "unhealthy")
        assert probe.asked[often] >= 9
        await rounds(probe, rarely, 2)
        assert probe.asked[often] >= 5 * probe.asked[rarely]
        running.cancel()


async def test_one_slow_probe_delays_no_other(node: Served):
    async def hang(_: Target, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with (
        target(hang) as slow,
        target(says(200)) as fast,
        HttpProbe(()) as probe,
        probing(node, probe, Pace(interval_s=0.03, timeout_s=60)),
    ):
        await asyncio.gather(*(register(node, f"slow-{number}", health_url=slow.url) for number in range(50)))
        key = await register(node, "fast", health_url=fast.url)
        await becomes(node, key, "healthy")
        await until(lambda: len(fast.asked) >= 10 and len(slow.asked) == 50)


# When it doubts itself


async def test_four_that_fall_silent_at_once_are_not_condemned_and_the_agent_says_so(
    node: Served, capsys: pytest.CaptureFixture[str]
):
    probe = Scripted()
    async with probing(node, probe, Pace(interval_s=0.03, timeout_s=60)) as prober:
        keys = [await register(node, str(number)) for number in range(4)]
        for key in keys:
            await becomes(node, key, "healthy")
        assert prober.starved is None
        probe.finds = {key.id: SILENT for key in keys}
        await until(lambda: prober.starved == "no probe hears anything")
        assert {record(node, key).health_status for key in keys} == {"healthy"}
        probe.finds = {}
        await until(lambda: prober.starved is None)
    assert capsys.readouterr().out.count("probes that fail do not count") == 1


async def test_the_doubt_ends_after_a_while_though_nobody_answers(node: Served):
    probe = Scripted()
    async with probing(node, probe):
        keys = [await register(node, str(number)) for number in range(4)]
        for key in keys:
            await becomes(node, key, "healthy")
        probe.finds = {key.id: SILENT for key in keys}
        for key in keys:
            await becomes(node, key, "unhealthy")


async def test_an_agent_that_was_held_up_does_not_condemn_its_services(node: Served):
    probe = Scripted()
    async with probing(node, probe, Pace(interval_s=0.03, timeout_s=0.4)) as prober:
        key = await register(node)
        await becomes(node, key, "healthy")
        probe.finds["1"] = SILENT
        block(1.7)
        await until(lambda: prober.starved == "this agent is late")
        asked = probe.asked[key]
        await until(lambda: probe.asked[key] >= asked + 4)
        assert (prober.starved, record(node, key).health_status) == ("this agent is late", "healthy")
        await becomes(node, key, "unhealthy")
        assert prober.starved is None


def block(seconds: float) -> None:
    """Holds the event loop up, as a program would that computes."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass
