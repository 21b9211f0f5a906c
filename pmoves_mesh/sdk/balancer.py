"""The balancer: which instance of a service a call goes to. In memory, with no network.

Of the instances in the best health those of the own node come first. Among equals two are drawn, each by
its weight, and the one with less under way for its weight is taken: that is nearly as even as asking all
of them, and no herd runs after the one that was idle a moment ago. What just failed is shunned for a
second, twice as long with every further failure, up to half a minute.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, groupby
from threading import Lock
from typing import Final, NamedTuple

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import ServiceNotFound
from pmoves_mesh.ports import Clock
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import Instance

SHUNNED_MIN_S: Final = 1.0
SHUNNED_MAX_S: Final = 30.0

_SEATS_MAX: Final = 100_000


class Seat:
    """An instance, and how this program's own calls to it go.

    Attributes:
        weight: its share.
        active: how many calls are under way.
        failures: how many calls failed since the last that did not.
        shunned_until_s: until when it is passed over, monotonic seconds.
    """

    __slots__ = ("active", "failures", "instance", "shunned_until_s", "weight")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.weight = instance.weight
        self.active = 0
        self.failures = 0
        self.shunned_until_s = 0.0


class _Group(NamedTuple):
    """Instances that are as good as one another.

    Attributes:
        bounds: for each seat the sum of the weights up to it.
        last: the highest index.
        total: the sum of all weights.
    """

    seats: Sequence[Seat]
    bounds: Sequence[float]
    last: int
    total: float


class _Pool:
    """The instances of a service, the best group first.

    Attributes:
        shuns: whether any of them may be shunned now.
        spared: those to choose from while some are shunned.
        spared_until_s: until when that holds, monotonic seconds; 0 if it has to be found anew.
        turns: how often somebody came to be shunned, or no longer was.
    """

    __slots__ = ("groups", "shuns", "spared", "spared_until_s", "turns")

    def __init__(self, groups: Sequence[_Group], *, shuns: bool) -> None:
        self.groups = groups
        self.shuns = shuns
        self.spared = groups[0]
        self.spared_until_s = 0.0
        self.turns = 0


class Balancer:
    """Chooses among what a directory holds; enter `directory.listened(balancer.notice)` around its use."""

    def __init__(self, directory: Directory, clock: Clock, random: Callable[[], float]) -> None:
        """Takes the source of chance, which gives numbers from 0 up to, and without, 1."""
        self._directory = directory
        self._clock = clock
        self._random = random
        self._pools: Final[dict[str, _Pool]] = {}
        self._seats: Final[dict[InstanceKey, Seat]] = {}
        self._changes = 0
        self._lock = Lock()

    def notice(self, key: InstanceKey) -> None:
        """Takes notice that an instance changed."""
        with self._lock:
            self._changes += 1
            self._pools.pop(key.service, None)
        if self._directory.get(key) is None:
            self._seats.pop(key, None)

    def choose(self, service: str) -> Seat:
        """Returns where the next call to a service goes.

        Raises:
            ServiceNotFound: if none of its instances can be called.
            NothingKnownError: if the mesh was not seen yet.
        """
        pool = self._pools.get(service) or self._pool(service)
        group = self._spared(pool) if pool.shuns else pool.groups[0]
        seats, bounds, last, total = group
        if not last:
            return seats[0]
        random = self._random
        one = seats[bisect(bounds, random() * total, 0, last)]
        other = seats[bisect(bounds, random() * total, 0, last)]
        return one if one.active * other.weight <= other.active * one.weight else other

    def begin(self, service: str) -> Seat:
        """Returns where a call goes, and counts it as under way; `end` must follow; raises as `choose`."""
        seat = self.choose(service)
        with self._lock:
            seat.active += 1
        return seat

    def end(self, seat: Seat, *, failed: bool) -> None:
        """Takes notice that a call is over, and how it went."""
        with self._lock:
            seat.active -= 1
        if failed:
            self._shun(seat)
        elif seat.failures:
            seat.failures, seat.shunned_until_s = 0, 0.0
            self._turn(seat)

    def blame(self, instance: Instance) -> None:
        """Takes notice that a call to an instance failed which nobody counted."""
        seat = self._seats.get(instance.key)
        if seat is not None:
            self._shun(seat)

    def _shun(self, seat: Seat) -> None:
        seat.failures += 1
        doubled = SHUNNED_MIN_S * 2.0 ** min(seat.failures - 1, 16)
        seat.shunned_until_s = self._clock.monotonic_s() + min(doubled, SHUNNED_MAX_S)
        self._turn(seat)

    def _turn(self, seat: Seat) -> None:
        """Lets it be found anew who is shunned."""
        with self._lock:
            pool = self._pools.get(seat.instance.name)
            if pool is not None:
                pool.shuns, pool.spared_until_s, pool.turns = True, 0.0, pool.turns + 1

    def _pool(self, service: str) -> _Pool:
        """Makes the pool of a service anew, whose instances keep what is known of them."""
        self._directory.check_informed()
        changes = self._changes
        found = [
            one
            for one in self._directory.of_service(service)
            if one.is_discoverable and one.has_endpoint and one.weight
        ]
        if not found:
            raise ServiceNotFound(service)
        node = self._directory.node
        ordered = sorted(found, key=lambda one: (one.rank, one.node != node, one.key))
        groups = [
            _group(map(self._seat, members))
            for _, members in groupby(ordered, key=lambda one: (one.rank, one.node != node))
        ]
        pool = _Pool(groups, shuns=any(seat.shunned_until_s for group in groups for seat in group.seats))
        with self._lock:
            if changes == self._changes:  # or another thread has told of a change meanwhile
                self._pools[service] = pool
        return pool

    def _seat(self, instance: Instance) -> Seat:
        if len(self._seats) >= _SEATS_MAX:
            self._seats.clear()
        seat = self._seats.setdefault(instance.key, Seat(instance))
        seat.instance, seat.weight = instance, instance.weight
        return seat

    def _spared(self, pool: _Pool) -> _Group:
        """Returns the first group's seats that are not shunned, else the one that is shunned the shortest."""
        now_s = self._clock.monotonic_s()
        if now_s < pool.spared_until_s:
            return pool.spared
        turns = pool.turns
        every = [seat for group in pool.groups for seat in group.seats]
        shunned_s = [seat.shunned_until_s for seat in every if seat.shunned_until_s > now_s]
        spared = _spared(pool.groups, every, now_s)
        with self._lock:
            if turns == pool.turns:  # or another thread has told of a failure meanwhile
                pool.shuns, pool.spared = bool(shunned_s), spared
                pool.spared_until_s = min(shunned_s, default=0.0)
        return spared


def _spared(groups: Sequence[_Group], every: Sequence[Seat], now_s: float) -> _Group:
    for group in groups:
        free = [seat for seat in group.seats if seat.shunned_until_s <= now_s]
        if free:
            return group if len(free) == len(group.seats) else _group(free)
    return _group([min(every, key=lambda seat: seat.shunned_until_s)])


def _group(members: Iterable[Seat]) -> _Group:
    seats = tuple(members)
    bounds = tuple(accumulate(seat.weight for seat in seats))
    return _Group(seats, bounds, len(seats) - 1, bounds[-1])
