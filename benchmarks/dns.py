"""DNS: how many SRV questions one agent answers over UDP on one core, and how long each takes.

Asked by dnsperf where it is on PATH, and else by a client of our own with some questions under way.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import dns.message

from benchmarks.agents import Agent, mesh
from benchmarks.filled import Stand, fill
from benchmarks.measure import Figure, Target, figure, interleaved, percentile
from benchmarks.processes import alone, free_port

TITLE = "DNS SRV"
A_SECOND = Target(at_least=10_000)
INSTANCES = (1, 3, 30)

_NAMES = 100
_WINDOW = 32
_NAME = "_{}._tcp.service.pmoves-mesh"
_RATE = re.compile(r"Queries per second:\s+([0-9.]+)")
_LOST = re.compile(r"Queries lost:\s+([0-9]+)")


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    folder, port = stand.folder(), free_port()
    with mesh(folder, "one", PMOVES_DNS_PORT=str(port)) as (_, (agent,)):
        fill(agent, _records(stand))
        names = {count: [f"rag{count}-{number}" for number in range(_names(stand))] for count in INSTANCES}
        with alone([agent.pid]):
            found = interleaved(
                stand.size.rounds,
                {
                    f"{count}": partial(_rate, folder, port, asked, stand.size.seconds)
                    for count, asked in names.items()
                },
            )
        by = "dnsperf" if shutil.which("dnsperf") else "our own client, as dnsperf is not on PATH"
        for count in INSTANCES:
            what = f"answers, of {count} instance{'' if count == 1 else 's'}"
            target = A_SECOND if count == INSTANCES[0] else None
            yield figure(what, "/s", found[f"{count}"], target=target, note=f"asked by {by}")
        single = [1e6 * one for one in _single(port, names[3][0], 4 * stand.size.registrations)]
        yield figure("one question at a time, p50", "µs", [percentile(single, 50)])
        yield figure("one question at a time, p99", "µs", [percentile(single, 99)])
        changed = [1e6 * one for one in _changing(port, names[3][0], agent, stand.size.registrations)]
        yield figure("the first question after a change, p50", "µs", [percentile(changed, 50)])


def _names(stand: Stand) -> int:
    return min(_NAMES, stand.size.services)


def _records(stand: Stand) -> Iterator[dict[str, object]]:
    for count in INSTANCES:
        for number in range(_names(stand)):
            for which in range(count):
                address = f"10.{count}.{number % 250}.{which}"
                yield {"name": f"rag{count}-{number}", "id": f"i{which}", "host": address, "port": 8000}


def _rate(folder: Path, port: int, names: Sequence[str], seconds: float) -> float:
    """Returns how many answers a second come.

    Raises:
        RuntimeError: if questions are lost.
    """
    if shutil.which("dnsperf") is None:
        return _own_rate(port, names, seconds)
    questions = folder / "questions"
    questions.write_text("".join(f"{_NAME.format(name)} SRV\n" for name in names))
    load = ("-c", str(_WINDOW), "-q", str(_WINDOW), "-l", str(max(1, round(seconds))))
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(questions), *load]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, lost = _RATE.search(said), _LOST.search(said)
    if found is None or lost is None or int(lost[1]):
        raise RuntimeError(said)
    return float(found[1])


def _own_rate(port: int, names: Sequence[str], seconds: float) -> float:
    """Asks as fast as it can, with some questions under way."""
    queries = [_question(name, number) for number, name in enumerate(names)][:_WINDOW]
    answered, began = 0, time.perf_counter()
    with _client(port) as client:
        while time.perf_counter() - began < seconds:
            for query in queries:
                client.send(query)
            for _ in queries:
                client.recv(65_535)
            answered += len(queries)
    return answered / (time.perf_counter() - began)


def _single(port: int, name: str, count: int) -> list[float]:
    """Returns how many seconds each answer took, one after another."""
    with _client(port) as client:
        return [_ask(client, name, number) for number in range(count)]


def _changing(port: int, name: str, agent: Agent, count: int) -> list[float]:
    """Asks while the registry changes before every question, so that nothing that was kept is of use."""
    took_s = []
    with _client(port) as client:
        for number in range(count):
            agent.register("other", metadata={"number": number})
            took_s.append(_ask(client, name, number))
    return took_s


def _client(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    client.connect(("127.0.0.1", port))
    return client


def _ask(client: socket.socket, name: str, number: int) -> float:
    question, began = _question(name, number), time.perf_counter()
    client.send(question)
    client.recv(65_535)
    return time.perf_counter() - began


def _question(name: str, number: int) -> bytes:
    query = dns.message.make_query(_NAME.format(name), "SRV", use_edns=0, payload=4096)
    return number.to_bytes(2, "big") + query.to_wire()[2:]
