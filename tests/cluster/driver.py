"""Many clients that register services at agents, and keep account of what was acknowledged."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from hosted import HostedAgent

REQUEST_S: Final = 10.0
RETRY_S: Final = 0.02
ACKNOWLEDGED: Final = frozenset({200, 202})


@dataclass
class Account:
    """What agents acknowledged.

    Attributes:
        ports: of each acknowledged service, by node and name.
        statuses: how often each status was answered.
        moments: when an answer said that the stream has the event, in seconds of `time.perf_counter`.
        unanswered: requests that broke off.
    """

    ports: dict[tuple[str, str], int] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)
    unanswered: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, node: str, name: str, port: int, status: int) -> None:
        with self._lock:
            self.statuses[status] += 1
            if status in ACKNOWLEDGED:
                self.ports[node, name] = port
                self._counts[node] += 1
            if status == 200:
                self.moments.append(time.perf_counter())

    def miss(self) -> None:
        with self._lock:
            self.unanswered += 1

    def of(self, node: str) -> int:
        """Returns how many registrations a node acknowledged."""
        return self._counts[node]

    def silence_s(self, since: float) -> float:
        """Returns for how long after `since` no write reached the stream, at the longest."""
        moments = sorted([since, *(moment for moment in self.moments if moment > since)])
        return max((later - earlier for earlier, later in pairwise(moments)), default=0)


@dataclass(frozen=True)
class Client:
    """Registers services at one agent, one after the other, each until it is acknowledged."""

    agent: HostedAgent
    account: Account
    stop: threading.Event
    path: str

    def run(self, work: Iterator[tuple[str, int]]) -> None:
        with self.agent.place.entered():
            connection = self._connection()
            for name, port in work:
                while not self.stop.is_set() and not self._register(connection, name, port):
                    connection.close()
                    connection = self._connection()
                    time.sleep(RETRY_S)
                if self.stop.is_set():
                    break
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.agent.http_port, timeout=REQUEST_S)

    def _register(self, connection: http.client.HTTPConnection, name: str, port: int) -> bool:
        body = json.dumps({"name": name, "id": name, "host": self.agent.place.address, "port": port})
        try:
            connection.request("POST", self.path, body)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self.account.miss()
            return False
        self.account.take(self.agent.node, name, port, response.status)
        return response.status in ACKNOWLEDGED


class Work:
    """Names and ports for one agent, which its clients share."""

    def __init__(self, services: Iterator[tuple[str, int]]) -> None:
        self._services = services
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return self

    def __next__(self) -> tuple[str, int]:
        with self._lock:
            return next(self._services)


@contextmanager
def registering(
    agents: Sequence[HostedAgent],
    services: Callable[[HostedAgent], Iterator[tuple[str, int]]],
    clients: int,
    *,
    patient: bool = False,
) -> Iterator[Account]:
    """Registers the services of each agent side by side; at the end of the context all stop.

    Every second client does not wait for the stream (`?wait=none`), unless all are to be patient.
    """
    account = Account()
    stop = threading.Event()
    threads = []
    for agent in agents:
        work = Work(services(agent))
        for number in range(clients):
            path = "/api/services" if patient or number % 2 == 0 else "/api/services?wait=none"
            client = Client(agent, account, stop, path)
            threads.append(threading.Thread(target=client.run, args=(work,), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield account
    finally:
        stop.set()
        for thread in threads:
            thread.join(REQUEST_S * 2)


@contextmanager
def killed_in_a_loop(
    agents: Sequence[HostedAgent], account: Account, share: int, kills: int
) -> Iterator[list[str]]:
    """Kills each agent so many times on the way to its share of registrations, and starts it again.

    Yields whom it killed, so far.
    """
    killed: list[str] = []
    over = threading.Event()

    def haunt(agent: HostedAgent) -> None:
        for turn in range(1, kills + 1):
            due = turn * share // (kills + 1)
            while account.of(agent.node) < due:
                if over.wait(0.01):
                    return
            agent.kill()
            killed.append(agent.node)
            agent.start()

    threads = [threading.Thread(target=haunt, args=(agent,), daemon=True) for agent in agents]
    for thread in threads:
        thread.start()
    try:
        yield killed
    finally:
        over.set()
        for thread in threads:
            thread.join()


def numbered(agent: HostedAgent, count: int) -> Iterator[tuple[str, int]]:
    """Yields so many services of an agent."""
    for number in range(count):
        yield f"{agent.node}-{number}", 1 + number


def lost(account: Account, agent: HostedAgent) -> set[tuple[str, str]]:
    """Returns what was acknowledged, and is not at an agent as it was acknowledged."""
    held = agent.holdings()
    return {key for key, port in account.ports.items() if key not in held or held[key]["port"] != port}
