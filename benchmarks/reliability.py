"""What faults cost: a real cluster of three nats-servers and agents, on hosts of their own where root.

    python -m benchmarks reliability

It uses the servers, agents and cables of `tests/cluster`, where each of these faults is a test.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

sys.path.extend(str(Path(__file__).parent.parent / "tests" / name) for name in ("", "integration", "cluster"))

import cables
import namespaces
from agents import eventually
from driver import Account, killed_in_a_loop, numbered, registering
from hosted import HostedAgent, HostedMesh
from places import Place
from servers import SERVERS, Cluster

ROUNDS = 5
CLIENTS = 8
WRITES = 50
WITHIN_S = 120.0
BAD_CABLE = cables.Fault(delay_ms=200, loss=0.05)
ON_THE_BAD_CABLE = 1_000
AGENTS = ("alpha", "beta", "gamma")
SHARE = 3_334
KILLS_PER_AGENT = 5


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about six minutes on two cores."""
    problem = namespaces.problem()
    yield f"on loopback ({problem})" if problem else "each on a host of its own (network namespaces)"
    with _mesh() as mesh:
        yield from _servers(mesh, *mesh.begun("alpha", "beta"))
    if not problem:
        with _mesh() as mesh:
            yield from _edge(mesh, *mesh.begun("hub", "edge"))
    with _mesh() as mesh:
        yield from _rates(mesh, "undisturbed", kills=0)
    with _mesh() as mesh:
        yield from _rates(mesh, "agents killed in a loop", kills=KILLS_PER_AGENT)


@contextmanager
def _mesh() -> Iterator[HostedMesh]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = SERVERS + len(AGENTS)
        places = (
            tuple(Place() for _ in range(hosts))
            if namespaces.problem()
            else tuple(map(Place, stack.enter_context(namespaces.network(hosts))))
        )
        cluster = Cluster(folder / "servers", places[:SERVERS])
        yield stack.enter_context(HostedMesh(folder / "hosts", cluster, places[SERVERS:]))


def _servers(mesh: HostedMesh, *agents: HostedAgent) -> Iterator[str]:
    cluster = mesh.cluster
    numbers = count(1)

    def services(agent: HostedAgent) -> Iterator[tuple[str, int]]:
        return ((f"{agent.node}-{number}", number) for number in numbers)

    def fault(break_it: Callable[[], object], mend: Callable[[], object]) -> tuple[float, float]:
        cluster.whole()
        with registering(agents, services, CLIENTS // 2, patient=True) as account:
            _written(account, 0)
            broken = time.perf_counter()
            break_it()
            _written(account, broken)
        without_s, agreed_s = account.silence_s(broken), mesh.agreed()
        mend()
        return without_s, agreed_s

    def rounds(what: str, attribute: str, mended: str) -> Iterator[str]:
        found = []
        for _ in range(ROUNDS):
            leader = cluster.led()
            target = leader if attribute == "kill" else leader.place.host
            found.append(fault(getattr(target, attribute), getattr(target, mended)))
        yield _line(f"{what}: without writes", [one for one, _ in found])
        yield _line(f"{what}: agreed once writes went on, after", [one for _, one in found])

    yield from rounds("kill -9 of the leader", "kill", "start")
    if cluster.led().place.host is not None:
        yield from rounds("the leader's cable out", "cut", "mend")
        yield from _lonely(mesh, *agents)
    back, agreed = [], []
    for turn in range(ROUNDS):
        cluster.whole()
        dead = cluster.members[:2]
        for member in dead:
            member.kill()
        assert agents[0].register(f"waiting-{turn}", port=1).status == 202
        dead[0].start()
        back.append(eventually(lambda turn=turn: agents[1].knows(f"waiting-{turn}"), "it is back", WITHIN_S))
        agreed.append(mesh.agreed())
        dead[1].start()
    yield _line("two of three killed, one started again: until writes go on", back)
    yield _line("two of three killed: agreed after that", agreed)


def _lonely(mesh: HostedMesh, agent: HostedAgent, other: HostedAgent) -> Iterator[str]:
    took = []
    for turn in range(ROUNDS):
        mesh.cluster.whole()
        lonely = next(member for member in mesh.cluster.members if member.url == agent.server_url)
        with lonely.parted():
            agent.register(f"lonely-{turn}", port=1)
            took.append(eventually(lambda turn=turn: other.knows(f"lonely-{turn}"), "it is there", WITHIN_S))
    yield _line("a server cut off from the others: its agents use another after", took)


def _edge(mesh: HostedMesh, hub: HostedAgent, edge: HostedAgent) -> Iterator[str]:
    noticed, agreed = [], []
    host = edge.place.host
    assert host is not None
    for turn in range(ROUNDS):
        host.cut()
        noticed.append(eventually(lambda: not edge.is_ready(), "the edge notices", WITHIN_S))
        for number in range(20):
            edge.register(f"edge-{turn}-{number}", port=1)
            hub.register(f"hub-{turn}-{number}", port=1)
        host.mend()
        agreed.append(mesh.agreed())
    yield _line("an agent's cable out: it says that it is stale, after", noticed)
    yield _line("an agent's cable in again: agreed after", agreed)
    with cables.degraded(host, BAD_CABLE) as means:
        what = f"{BAD_CABLE.delay_ms} ms and {BAD_CABLE.loss:.0%} loss ({means})"
        yield from _register(mesh, (edge,), what, ON_THE_BAD_CABLE, kills=0)


def _rates(mesh: HostedMesh, what: str, *, kills: int) -> Iterator[str]:
    yield from _register(mesh, mesh.begun(*AGENTS), what, SHARE, kills=kills)


def _register(
    mesh: HostedMesh, agents: tuple[HostedAgent, ...], what: str, share: int, *, kills: int
) -> Iterator[str]:
    total = share * len(agents)
    began = time.perf_counter()
    with (
        registering(agents, lambda agent: numbered(agent, share), CLIENTS) as account,
        killed_in_a_loop(agents, account, share, kills) as killed,
    ):
        eventually(lambda: len(account.ports) == total, "all are acknowledged", WITHIN_S)
    took_s = time.perf_counter() - began
    agreed_s = mesh.agreed()
    answers = ", ".join(f"{number} times {status}" for status, number in sorted(account.statuses.items()))
    yield f"{what}: {total} registrations, {len(killed)} kills, answered {answers}"
    yield f"{what + ': registrations per second':<64} {total / took_s:7.0f}"
    yield f"{what + ': agreed after':<64} {agreed_s:7.2f} s"


def _written(account: Account, since: float) -> None:
    eventually(
        lambda: sum(moment > since for moment in tuple(account.moments)) > WRITES, "writes go on", WITHIN_S
    )


def _line(what: str, seconds: list[float]) -> str:
    median = statistics.median(seconds)
    return f"{what:<64} {median:7.2f} s   {min(seconds):.2f} to {max(seconds):.2f} s, of {len(seconds)}"
