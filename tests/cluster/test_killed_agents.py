"""Agents that are killed again and again while thousands of services register at them."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from agents import eventually, note
from driver import killed_in_a_loop, lost, numbered, registering
from hosted import HostedMesh
from log_support import DEADLINE_S

from pmoves_mesh.core import records
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import REGISTRY

AGENTS = ("alpha", "beta", "gamma")
SHARE = 3_334
REGISTRATIONS = SHARE * len(AGENTS)
KILLS_PER_AGENT = 5
CLIENTS = 8
ACKNOWLEDGED_S = 150.0
AGREED_S = 60.0


def in_the_bucket(mesh: HostedMesh) -> dict[tuple[str, str], int]:
    """Returns the port of each instance that the bucket holds, by node and name."""

    async def read() -> dict[tuple[str, str], int]:
        settings = NatsSettings(servers=(mesh.cluster.led().url,))
        async with Connection(settings) as connection:
            await connection.wait_connected(DEADLINE_S)
            found = {}
            async for entry in NatsBucket(connection, REGISTRY).load("service.>"):
                record = records.readable(entry.value)
                if record is not None and not records.is_removal(record):
                    data = msgspec.json.decode(record.event)["data"]
                    found[data["node"], data["name"]] = data["port"]
            return found

    with mesh.cluster.led().place.entered():
        return asyncio.run(read())


@pytest.mark.timeout(300)
def test_no_acknowledged_registration_is_lost_while_agents_are_killed_in_a_loop(mesh: HostedMesh):
    agents = mesh.begun(*AGENTS)
    began = time.perf_counter()
    with (
        registering(agents, lambda agent: numbered(agent, SHARE), CLIENTS) as account,
        killed_in_a_loop(agents, account, SHARE, KILLS_PER_AGENT) as killed,
    ):
        eventually(lambda: len(account.ports) == REGISTRATIONS, "all are acknowledged", ACKNOWLEDGED_S)
    took_s = time.perf_counter() - began
    rate = REGISTRATIONS / took_s
    note(f"{REGISTRATIONS} registrations, {len(killed)} kills: {took_s:.1f} s, {rate:.0f} registrations/s")
    note(f"{account.statuses}, {account.unanswered} requests broke off")
    note(f"agreed after {mesh.agreed(AGREED_S):.1f} s")
    assert set(account.statuses) <= {200, 202}
    assert len(killed) == KILLS_PER_AGENT * len(agents)
    for agent in agents:
        assert not lost(account, agent)
        assert len(agent.names()) == REGISTRATIONS
        assert agent.registry["rejections"] == []
    eventually(lambda: in_the_bucket(mesh) == account.ports, "the bucket holds the same", AGREED_S)
