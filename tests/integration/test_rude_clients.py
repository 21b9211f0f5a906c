"""Clients that say half of something, go in the midst of an answer, or never begin: nobody else notices."""

from __future__ import annotations

import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from agents import AgentProcess, mesh_in
from ports import free_port

HOST = "127.0.0.1"
CLIENTS = 12
CONNECTIONS = 40
HTTP = b" HTTP/1.1\r\nHost: localhost\r\n"
QUESTION = (
    b"\x00\x23\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x04rude\x07service\x0bpmoves-mesh\x00\x00\x01\x00\x01"
)
SAID = (
    b"GET /api/watch" + HTTP + b"\r\n",
    b"GET /api/watch?name=rude HTTP/1.0\r\n\r\n",
    b"GET /api/services?index=999999999&wait=5s" + HTTP + b"\r\n",
    b"GET /v1/health/service/rude?index=9999999&wait=5s" + HTTP + b"\r\n",
    b"GET /api/services" + HTTP + b"\r\n",
    (b"GET /v1/catalog/services" + HTTP + b"\r\n") * 5,
    b"GET /metrics" + HTTP + b"\r\n",
    b"POST /api/services" + HTTP + b'Content-Length: 100\r\n\r\n{"name":',
    b"POST /api/discover" + HTTP + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"ca',
    b"GET / HT",
    b"\x16\x03\x01 is no HTTP",
)


def be_rude(port: int, dns_port: int, chance: random.Random) -> None:
    """Connects, says something or half of it, and goes: at once or later, in order or not."""
    by_dns = chance.random() < 0.2
    with socket.create_connection((HOST, dns_port if by_dns else port), timeout=10) as wire:
        wire.settimeout(0.05)
        try:
            said = QUESTION[: chance.randint(1, len(QUESTION))] if by_dns else chance.choice(SAID)
            wire.sendall(said)
            if chance.random() < 0.7:
                wire.recv(chance.choice((1, 100, 100_000)))
            if chance.random() < 0.3:
                wire.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the agent has closed it, or says nothing yet
        if chance.random() < 0.7:  # a reset, in the place of an orderly end
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("seed", [1])
def test_they_neither_silence_the_agent_nor_fill_its_log(seed: int, tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        agent = mesh.started("alpha", PMOVES_DNS_PORT=str(free_port()))
        dns_port = int(agent.environment["PMOVES_DNS_PORT"])
        port = int(agent.url.rpartition(":")[2])
        for number in range(100):
            agent.post(
                "/api/services?wait=none", {"name": f"s{number}", "port": 1, "metadata": {"x": "y" * 2000}}
            )

        def client(number: int) -> None:
            chance = random.Random(seed * 1000 + number)
            for _ in range(CONNECTIONS):
                be_rude(port, dns_port, chance)
                agent.post("/api/services?wait=none", {"name": "rude", "port": chance.randint(1, 9999)})

        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(client, range(CLIENTS)))
        assert_answers(agent)
        assert [line for line in agent.log.splitlines() if not line.startswith("{")] == []
        assert not agent.logged("request failed")
        assert agent.terminate() < 5


def assert_answers(agent: AgentProcess) -> None:
    """Checks that a watch begins, and tells of a change."""
    with requests.get(f"{agent.url}/api/watch", stream=True, timeout=20) as watch:
        lines = watch.iter_lines()
        while not next(lines).startswith(b"data:"):
            pass
        agent.register("polite", port=1)
        until_s = time.perf_counter() + 20
        while b'"polite"' not in next(lines):
            if time.perf_counter() > until_s:
                pytest.fail("the watch does not tell of the change")
