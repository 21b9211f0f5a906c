"""NATS microservices made with nats-py, and agents that answer as some, on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from nats.aio.client import Client
from nats.micro import Service, ServiceConfig, add_service
from nats.micro.request import Request
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats
from plain_nats import plain_client

FOUND_S = 20.0
HEARD_S = 0.5


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("alpha", PMOVES_LEASE_TTL_S="2")
        mesh.started("beta", PMOVES_LEASE_TTL_S="2")
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    async with plain_client(mesh.server.url) as client:
        yield client


async def reply(request: Request) -> None:
    await request.respond(request.data.upper())


@asynccontextmanager
async def microservice(client: Client, name: str, **metadata: str) -> AsyncIterator[Service]:
    """A service with one endpoint, as nats-py makes them."""
    config = ServiceConfig(name=name, version="1.2.3", description="says it louder", metadata=metadata)
    async with await add_service(client, config) as service:
        await service.add_endpoint(name="shout", subject=f"{name}.shout", handler=reply)
        yield service


async def ask(client: Client, subject: str, payload: bytes = b"") -> list[dict[str, Any]]:
    """Returns every answer that comes until none has for a while."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish(subject, payload, inbox)
    found: list[dict[str, Any]] = []
    while True:
        try:
            message = await answers.next_msg(timeout=HEARD_S)
        except TimeoutError:
            await answers.unsubscribe()
            return found
        if message.data:
            found.append(json.loads(message.data))


def instances(agent: AgentProcess, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = agent.get("/api/services", name=name).body["services"]
    return found


async def soon(condition: Any, what: str) -> float:
    return await asyncio.to_thread(eventually, condition, what, FOUND_S)


async def test_a_microservice_is_found_registered_once_and_gone_when_it_stops(
    alpha: AgentProcess, beta: AgentProcess, client: Client
):
    async with microservice(client, "Echo_Shout", capabilities="tts, echo") as service:
        took_s = await soon(
            lambda: [one["health_status"] for one in instances(beta, "echo-shout")] == ["healthy"], "found"
        )
        note(f"a microservice was found after {took_s:.1f} s")
        await soon(lambda: instances(alpha, "echo-shout") != [], "alpha knows it too")
        (one,) = instances(alpha, "echo-shout")
        assert (one["id"], one["port"], one["verified"]) == (service.id, 0, True)
        assert one["capabilities"] == ["nats-micro", "tts", "echo"]
        assert one["metadata"]["micro"] == {
            "name": "Echo_Shout",
            "id": service.id,
            "version": "1.2.3",
            "description": "says it louder",
            "endpoints": [{"name": "shout", "subject": "Echo_Shout.shout", "queue_group": "q"}],
        }
        assert [found["id"] for found in alpha.post("/api/discover", ["tts"]).body["services"]] == [
            service.id
        ]
    await soon(lambda: not instances(alpha, "echo-shout") and not instances(beta, "echo-shout"), "gone")


async def test_a_microservice_that_names_its_node_is_registered_there(
    alpha: AgentProcess, beta: AgentProcess, client: Client
):
    async with microservice(client, "one", node="alpha"), microservice(client, "two", node="beta"):
        for agent in (alpha, beta):
            await soon(
                lambda agent=agent: (
                    [one["node"] for one in instances(agent, "one")] == ["alpha"]
                    and [one["node"] for one in instances(agent, "two")] == ["beta"]
                ),
                f"{agent.node} shows each on its node",
            )


async def test_another_agent_takes_a_microservice_over_when_its_own_is_lost(
    mesh: Mesh, alpha: AgentProcess, client: Client
):
    mesh.started("gamma", PMOVES_LEASE_TTL_S="2")
    async with microservice(client, "survivor", node="gamma") as service:
        await soon(lambda: [one["node"] for one in instances(alpha, "survivor")] == ["gamma"], "on gamma")
        mesh.agents["gamma"].kill()
        await soon(
            lambda: any(
                one["node"] != "gamma" and one["node_status"] == "alive"
                for one in instances(alpha, "survivor")
            ),
            "on another node",
        )
        (found,) = alpha.get("/api/services/survivor").body["instances"]
        assert (found["id"], found["node"] in {"alpha", "beta"}) == (service.id, True)


async def test_an_agent_answers_for_its_services_as_microservices_do(
    alpha: AgentProcess, beta: AgentProcess, client: Client
):
    alpha.register(
        "whisper", id="9000", host="10.0.0.5", port=9000, capabilities=["stt"], metadata={"version": "3.1.0"}
    )
    beta.register("whisper", port=9001)
    pings = [ServicePing.from_dict(one) for one in await ask(client, "$SRV.PING.whisper")]
    assert {(one.id, one.version) for one in pings} == {("alpha-9000", "3.1.0"), ("beta-9001", "0.0.0")}
    (info,) = [ServiceInfo.from_dict(one) for one in await ask(client, "$SRV.INFO.whisper.alpha-9000")]
    assert (info.name, info.endpoints, info.type) == ("whisper", [], "io.nats.micro.v1.info_response")
    assert info.metadata["host"] == "10.0.0.5"
    assert info.metadata["port"] == "9000"
    assert info.metadata["capabilities"] == "stt"
    (stats,) = [ServiceStats.from_dict(one) for one in await ask(client, "$SRV.STATS.whisper.beta-9001")]
    assert stats.id == "beta-9001"
    assert stats.started.year > 2000
    everybody = await ask(client, "$SRV.PING")
    assert {"alpha-9000", "beta-9001"} <= {one["id"] for one in everybody}
    assert await ask(client, "$SRV.PING.nobody") == []
    assert await ask(client, "$SRV.DELETE.whisper") == []


async def test_a_microservice_answers_for_itself_and_no_agent_does_it_too(
    alpha: AgentProcess, client: Client
):
    async with microservice(client, "alone") as service:
        await soon(lambda: instances(alpha, "alone") != [], "found")
        assert [one["id"] for one in await ask(client, "$SRV.PING.alone")] == [service.id]


async def test_an_agent_does_not_speak_where_it_is_not_an_inbox(alpha: AgentProcess, client: Client):
    alpha.register("tempting", port=1)
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    places = ("$KV.MESH_LEASES.alpha", "elsewhere")
    for place in places:
        await client.subscribe(place, cb=hear)
    for place in places:
        await client.publish("$SRV.PING.tempting", b"", place)
    assert [one["id"] for one in await ask(client, "$SRV.PING.tempting")] == ["alpha-1"]
    assert not [payload for payload in heard if b"tempting" in payload]


async def test_whoever_answers_on_nats_cannot_take_a_registered_instance_over(
    alpha: AgentProcess, client: Client
):
    alpha.register("hi-rag", id="8086", host="10.0.0.7", port=8086, capabilities=["rag"])
    info = {"name": "hi-rag", "id": "8086", "version": "1.0.0", "metadata": {"node": "alpha"}}
    hostile = [b"", b"[]", b"\xff", b'{"name":"a.b","id":"x"}', json.dumps(info).encode()]
    asked = asyncio.Event()

    async def answer(message: Any) -> None:
        for payload in hostile:
            await client.publish(message.reply, payload)
        asked.set()

    await client.subscribe("$SRV.INFO", cb=answer)
    for _ in range(2):
        async with asyncio.timeout(FOUND_S):
            await asked.wait()
        asked.clear()
    async with microservice(client, "later", node="alpha"):
        await soon(lambda: instances(alpha, "later") != [], "the agent goes on")
    (one,) = instances(alpha, "hi-rag")
    assert (one["host"], one["port"], one["capabilities"]) == ("10.0.0.7", 8086, ["rag"])


async def test_what_a_microservice_says_of_an_address_counts_for_nothing(alpha: AgentProcess, client: Client):
    async with microservice(client, "impostor", node="alpha", host="203.0.113.9", port="666"):
        await soon(lambda: instances(alpha, "impostor") != [], "found")
        (one,) = instances(alpha, "impostor")
        assert (one["host"], one["port"], one["ports"]) == ("127.0.0.1", 0, {})


async def test_an_agent_that_starts_again_lets_go_of_what_went_meanwhile(
    mesh: Mesh, alpha: AgentProcess, client: Client
):
    delta = mesh.started("delta", PMOVES_LEASE_TTL_S="2")
    async with microservice(client, "brief", node="delta"):
        await soon(lambda: [one["node"] for one in instances(alpha, "brief")] == ["delta"], "on delta")
        await asyncio.to_thread(delta.terminate)
    await asyncio.to_thread(delta.restart)
    await soon(lambda: not instances(alpha, "brief"), "gone")
    delta.kill()
