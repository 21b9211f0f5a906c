"""The bridge to `services.announce.v1`, between real agents and a program that only knows NATS."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from agents import AgentProcess, eventually
from nats_server import NatsServer
from plain_nats import plain_client

from pmoves_mesh.core.slug import SUBJECT

RAG = {
    "slug": "hi-rag",
    "name": "Hi-RAG",
    "url": "http://10.9.8.7:8086",
    "health_check": "http://10.9.8.7:8086/healthz",
    "tier": "api",
    "port": 8086,
    "timestamp": "2026-11-23T06:00:00Z",
    "metadata": {},
}
HEARD_S = 20.0


async def announce(url: str, *announcements: dict[str, Any]) -> None:
    async with plain_client(url) as client:
        for announcement in announcements:
            await client.publish(SUBJECT, json.dumps(announcement).encode())
        await client.flush()


def is_known(agent: AgentProcess, name: str) -> bool:
    return agent.get(f"/api/services/{name}").status == 200


async def test_a_service_that_announces_its_slug_is_known_where_unsigned_events_are_accepted(
    nats_server: NatsServer, tmp_path: Path
):
    with (
        AgentProcess(tmp_path, "alpha", nats_server.url, PMOVES_UNSIGNED="accept") as alpha,
        AgentProcess(tmp_path, "beta", nats_server.url, PMOVES_UNSIGNED="accept") as beta,
    ):
        alpha.ready()
        beta.ready()
        await announce(nats_server.url, {"slug": 7}, RAG)
        for agent in (alpha, beta):
            eventually(lambda agent=agent: is_known(agent, "hi-rag"), f"{agent.node} knows the service")
        found = beta.post("/api/discover", ["tier:api"]).body["services"]
        assert [(one["host"], one["port"], one["verified"]) for one in found] == [("10.9.8.7", 8086, False)]
        assert beta.get("/api/status").body["registry"]["events"]["applied"] >= 3


async def test_a_service_that_announces_its_slug_is_unheard_where_only_signed_events_count(
    nats_server: NatsServer, tmp_path: Path
):
    with AgentProcess(tmp_path, "alpha", nats_server.url) as alpha:
        alpha.ready()
        await announce(nats_server.url, RAG)
        position = alpha.register("after", port=1).position
        assert alpha.get("/api/services/hi-rag", min_position=position).status == 404


async def test_a_registered_service_is_announced_to_todays_listeners_and_never_doubled(
    nats_server: NatsServer, tmp_path: Path
):
    settings = {"PMOVES_UNSIGNED": "accept", "PMOVES_BRIDGE_ANNOUNCE": "1"}
    with AgentProcess(tmp_path, "alpha", nats_server.url, **settings) as alpha:
        alpha.ready()
        alpha.register("whisper", host="127.0.0.1", port=9000)
        async with plain_client(nats_server.url) as client:
            listening = await client.subscribe(SUBJECT)
            await client.flush()
            alpha.terminate()
            alpha.restart()
            async with asyncio.timeout(HEARD_S):
                said = json.loads((await listening.next_msg(timeout=HEARD_S)).data)
        assert (said["slug"], said["url"], said["port"]) == ("whisper", "http://127.0.0.1:9000", 9000)
        position = alpha.register("after", port=1).position
        listed = alpha.get("/api/services", name="whisper", min_position=position).body["services"]
        assert [(one["node"], one["verified"]) for one in listed] == [("alpha", True)]
