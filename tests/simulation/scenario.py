"""A scenario: a seed makes hosts, callers and faults; then all is mended, and must agree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

from callers import Caller
from chronicle import Chronicle, ChronicledBroker
from expectations import Expectations
from host import Host
from law import Law
from nemesis import Nemesis
from reader import Mesh
from verdict import check, is_settled
from virtual_time import SimClock, ended, run

from pmoves_mesh.agent import author
from pmoves_mesh.agent.liveness import lease, sweeper
from pmoves_mesh.log.memory import Faults

_GREEK: Final = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
_NAMES: Final = (*_GREEK, *(f"{name}-{number}" for number in (2, 3) for name in _GREEK))
_LARGE_IN: Final = 50
_CALLERS_PER_HOST: Final = 2
_POLL_S: Final = 0.5
_REST_MAX_S: Final = 900.0


class Scenario:
    """One run of a mesh, which its seed decides down to the last step."""

    def __init__(self, seed: int) -> None:
        self.chronicle = Chronicle()
        self._seed = seed
        self._rng = random.Random(seed)

    def play(self) -> Chronicle:
        """Plays it in virtual time, and returns what happened."""
        with self.chronicle.taking_logs(), chance_from(self._seed):
            run(self._play())
        return self.chronicle

    async def _play(self) -> None:
        rng, law, clock = self._rng, Law(), SimClock()
        is_large = rng.randrange(_LARGE_IN) == 0
        broker = ChronicledBroker(clock, self.chronicle, law, dedup_window_s=rng.choice((2, 20, 120)))
        mesh = Mesh(
            seed=self._seed,
            broker=broker,
            chronicle=self.chronicle,
            announce_s=rng.choice((2, 5)),
            reconcile_s=rng.choice((3, 6)),
            lease_ttl_s=rng.choice((3, 10)),
            deregister_after_s=rng.choice((1, 10, 30)),
            accept_unsigned=rng.random() < 0.5,
            law=law,
        )
        usual = Faults(delay_max_s=rng.choice((0, 0.005, 0.05)), reorder=rng.choice((0, 0.3)))
        names = _NAMES if is_large else _NAMES[: rng.randint(2, len(_GREEK))]
        hosts = [Host(mesh, name, usual) for name in names]
        expectations = {host.label: Expectations(host, self.chronicle) for host in hosts}
        nemesis = Nemesis(mesh, hosts, expectations)
        self.chronicle.note(f"{len(hosts)} hosts; {', '.join(nemesis.kinds)}")
        callers = [
            Caller(mesh, host, expectations[host.label], number)
            for host in hosts
            for number in range(1 if is_large else _CALLERS_PER_HOST)
        ]
        duration_s = rng.uniform(8, 16) if is_large else rng.uniform(12, 40)
        try:
            for host in hosts:
                host.start()
            await _for_a_while(duration_s, [nemesis.run(), *(caller.run() for caller in callers)])
            await nemesis.heal()
            await nemesis.harm_once_more()
            await self._rest(mesh, hosts)
            await check(mesh, hosts, expectations)
        finally:
            for host in hosts:
                host.crash(disk_lost=True)
                await host.stopped()

    async def _rest(self, mesh: Mesh, hosts: Sequence[Host]) -> None:
        """Waits until nobody has anything more to say but to repeat itself."""
        self.chronicle.note("all is mended")
        clock, quiet_s = mesh.broker.clock, 5 + 3 * max(mesh.announce_s, mesh.reconcile_s)
        deadline_s = clock.monotonic_s() + _REST_MAX_S
        while not (
            clock.monotonic_s() - mesh.broker.changed_s > quiet_s
            and mesh.broker.is_worked_off()
            and all(map(_rests, hosts))
            and is_settled(hosts)
        ):
            if clock.monotonic_s() > deadline_s:
                self.chronicle.violate(f"no rest within {_REST_MAX_S:.0f} s")
                return
            await clock.sleep(_POLL_S)
        self.chronicle.note("all is quiet")


@contextmanager
def chance_from(seed: int) -> Iterator[None]:
    """Has what the agents leave to chance come from the seed as well."""
    rng = random.Random(f"{seed} chance")
    before = lease.secrets, lease._random
    known = SimpleNamespace(token_hex=lambda count: rng.randbytes(count).hex(), randbelow=rng.randrange)
    vars(lease).update(secrets=known, _random=rng)
    vars(author).update(secrets=known)
    vars(sweeper).update(_random=rng)
    try:
        yield
    finally:
        vars(lease).update(secrets=before[0], _random=before[1])
        vars(author).update(secrets=before[0])
        vars(sweeper).update(_random=before[1])


def _rests(host: Host) -> bool:
    agent = host.agent
    if agent is None:
        return not host.is_up
    return agent.outbox.depth == 0 and agent.replica.is_current


async def _for_a_while(seconds: float, works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs works that do not end by themselves."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await ended(tasks)
