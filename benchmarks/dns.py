"""How many questions one agent answers over UDP, for the core it runs on, and how long each takes."""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import msgspec

from benchmarks.agents import Agent, Server, free_port, seconds_until

INSTANCES = (3, 30, 300)
MEASURED_S = 5.0
WINDOW = 16
SINGLE = 2000
NAME = "_rag{}._tcp.service.pmoves-mesh"


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about half a minute."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, port = Server(folder), free_port()
        agent = Agent(folder, "one", {"NATS_URL": server.url, "PMOVES_DNS_PORT": str(port)})
        try:
            server.start()
            agent.start()
            _register(agent)
            pid = int((folder / "one" / "agent.pid").read_text().split()[0])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect(("127.0.0.1", port))
                for count in INSTANCES:
                    yield _flood(client, pid, count)
                yield _single(client)
                yield _changing(client, agent)
        finally:
            agent.end()
            server.kill()


def _register(agent: Agent) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", agent.port)
    for count in INSTANCES:
        for number in range(count):
            host = f"10.{count % 250}.{number // 250}.{number % 250}"
            body = {"name": f"rag{count}", "id": f"i{number}", "host": host, "port": 8000}
            connection.request("POST", "/api/services?wait=none", msgspec.json.encode(body))
            assert connection.getresponse().read()
    connection.close()
    seconds_until(lambda: agent.knows(f"rag{INSTANCES[-1]}"))


def _question(count: int, number: int) -> bytes:
    query = dns.message.make_query(NAME.format(count), "SRV", use_edns=0, payload=4096)
    return number.to_bytes(2, "big") + query.to_wire()[2:]


def _flood(client: socket.socket, pid: int, count: int) -> str:
    """Asks as fast as it can, with some questions under way, and measures what the agent takes for it."""
    queries = [_question(count, number) for number in range(WINDOW)]
    answered = size = 0
    began, used_s = time.perf_counter(), _cpu_s(pid)
    while time.perf_counter() - began < MEASURED_S:
        for query in queries:
            client.send(query)
        for _ in queries:
            size += len(client.recv(65_535))
        answered += WINDOW
    wall_s, used_s = time.perf_counter() - began, _cpu_s(pid) - used_s
    return (
        f"SRV of {count} instances, {size / answered:.0f} bytes: {answered / wall_s:,.0f} answers/s, "
        f"{answered / used_s:,.0f} for each second of the agent's core"
    )


def _single(client: socket.socket) -> str:
    took_s = []
    for number in range(SINGLE):
        began = time.perf_counter()
        client.send(_question(INSTANCES[0], number))
        client.recv(65_535)
        took_s.append(time.perf_counter() - began)
    cuts = statistics.quantiles(took_s, n=100)
    return f"one question at a time: median {1e6 * cuts[49]:.0f} us, p99 {1e6 * cuts[98]:.0f} us"


def _changing(client: socket.socket, agent: Agent) -> str:
    """Asks while the registry changes before every question, so that nothing that was kept is of use."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port)
    took_s = []
    for number in range(SINGLE // 10):
        body = {"name": "other", "host": "10.0.0.1", "port": 1, "metadata": {"number": number}}
        connection.request("POST", "/api/services?wait=none", msgspec.json.encode(body))
        assert connection.getresponse().read()
        began = time.perf_counter()
        client.send(_question(INSTANCES[0], number))
        client.recv(65_535)
        took_s.append(time.perf_counter() - began)
    connection.close()
    return f"the first question after a change: median {1e6 * statistics.median(took_s):.0f} us"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
