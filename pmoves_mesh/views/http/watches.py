"""Everybody who watches: changes of the replica, brought to whoever they concern.

A change is encoded once for each filter in use, and written to each of its watchers without waking a
task. What a thousand watchers cost is told by `python -m benchmarks watch`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from aiohttp import web

from pmoves_mesh.core.feed import NodeFeed
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import Filter
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Applied, Replica
from pmoves_mesh.views.http import events
from pmoves_mesh.views.http.broadcast import Broadcast
from pmoves_mesh.views.http.pace import Pace
from pmoves_mesh.views.http.watcher import Watcher

COMMENT_S: Final = 15.0

_IDLE_MAX: Final = 256
_IDLE_S: Final = 600.0
_REST: Final = 1.0


class _Frame(NamedTuple):
    """Bytes on their way to some watchers, and up to where they tell; 0 if they tell of no change."""

    watchers: tuple[Watcher, ...]
    frame: bytes
    position: int


class Watches:
    """The broadcasts of one server, by their filters.

    One that nobody needs is kept up to date for a while, so that whoever comes back goes on with it.
    """

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._pace: Final = Pace(self._work, clock, rest=_REST)
        self._broadcasts: Final[dict[Filter, Broadcast]] = {}
        self._of_service: Final[dict[str | None, dict[Filter, Broadcast]]] = {}
        self._unsent: Final[deque[_Frame]] = deque()
        self._nodes: NodeFeed | None = None
        self._nodes_dirty: Final[dict[str, None]] = {}
        self._nodes_replaced = False
        self._position_max = 0
        self._commenting: asyncio.TimerHandle | None = None
        self._ended = False

    @property
    def watching(self) -> int:
        """How many watchers there are."""
        return sum(len(broadcast.watchers) for broadcast in self._broadcasts.values())

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follows the replica while the context lasts; nobody is told of a change without it."""
        self._plan_comment()
        try:
            with self._replica.subscribed(self._note, self._replace):
                yield
        finally:
            self.end()

    def end(self) -> None:
        """Tells every watcher that this agent stops."""
        self._ended = True
        self._pace.stop()
        if self._commenting is not None:
            self._commenting.cancel()
        for broadcast in self._broadcasts.values():
            for watcher in broadcast.watchers:
                watcher.end("stopping")

    def of(self, wanted: Filter) -> Broadcast:
        """Returns the broadcast of a filter, up to date."""
        broadcast = self._broadcasts.get(wanted)
        if broadcast is None:
            replica = self._replica
            broadcast = Broadcast(
                replica.registry, wanted, position=replica.position, exact=replica.is_current
            )
            broadcast.idle_s = self._clock.monotonic_s()
            self._broadcasts[wanted] = broadcast
            self._of_service.setdefault(wanted.name, {})[wanted] = broadcast
            self._forget()
        self._look(broadcast)
        broadcast.idle_s = self._clock.monotonic_s()
        return broadcast

    @property
    def state_of_nodes(self) -> int:
        """Something that changes when the list of nodes looks different."""
        registry = self._replica.registry
        if self._nodes is None:
            self._nodes = NodeFeed(registry)
        elif self._nodes_replaced:
            self._nodes.compare(registry)
        else:
            self._nodes.update(registry, tuple(self._nodes_dirty))
        self._nodes_replaced = False
        self._nodes_dirty.clear()
        return self._nodes.told

    def after(self, broadcast: Broadcast, resumed: int) -> bytes | None:
        """Returns what a reader that comes back missed, see `Broadcast.after`."""
        self._look(broadcast)
        return broadcast.after(resumed, self._replica.registry, self._replica.position)

    def since(self, broadcast: Broadcast, told: int) -> tuple[int, bytes | None]:
        """Returns up to where a reader is told with what has changed since, see `Broadcast.since`."""
        self._look(broadcast)
        position = self._replica.position
        return position, broadcast.since(told, self._replica.registry, position)

    async def snapshot(self, broadcast: Broadcast) -> list[bytes]:
        """Returns what matches, see `Broadcast.snapshot`."""
        return await broadcast.snapshot(self._replica.registry, self._clock.monotonic_s())

    @contextmanager
    def using(self, broadcast: Broadcast) -> Iterator[None]:
        """Keeps a broadcast from being forgotten while the context lasts."""
        broadcast.users += 1
        try:
            yield
        finally:
            broadcast.users -= 1
            broadcast.idle_s = self._clock.monotonic_s()

    @contextmanager
    def told(self, broadcast: Broadcast, watcher: Watcher) -> Iterator[None]:
        """Tells a watcher of changes while the context lasts."""
        if self._ended:
            watcher.end("stopping")
        broadcast.watchers.add(watcher)
        try:
            yield
        finally:
            broadcast.watchers.discard(watcher)

    def _note(self, applied: Applied) -> None:
        change = applied.change
        if self._nodes is not None:
            self._nodes_dirty.update(dict.fromkeys((*change.nodes, *(key.node for key in change.instances))))
        for key in change.instances:
            for broadcast in self._concerned(key):
                broadcast.note(key)
                self._pace.plan()

    def _replace(self) -> None:
        """Another registry took the place of the one before, and its positions may be another stream's."""
        self._position_max = max(self._position_max, self._replica.position)
        self._nodes_replaced = True
        for broadcast in self._broadcasts.values():
            broadcast.replace(self._position_max)
        self._pace.plan()

    def _concerned(self, key: InstanceKey) -> Iterator[Broadcast]:
        for service in (key.service, None):
            for broadcast in self._of_service.get(service, {}).values():
                if broadcast.feed.concerns(key):
                    yield broadcast

    def _work(self) -> Iterator[None]:
        """Looks at one broadcast after another, and writes to one watcher after another."""
        self._position_max = max(self._position_max, self._replica.position)
        for broadcast in tuple(self._broadcasts.values()):
            self._look(broadcast)
            yield
        while self._unsent:
            watchers, frame, position = self._unsent.popleft()
            chunk = events.chunk(frame)
            for watcher in watchers:
                watcher.send(frame, chunk, position)
                yield

    def _look(self, broadcast: Broadcast) -> None:
        position = self._replica.position
        if frame := broadcast.look(self._replica.registry, position):
            self._unsent.append(_Frame(tuple(broadcast.watchers), frame, position))
            self._pace.plan()

    def _plan_comment(self) -> None:
        self._commenting = asyncio.get_running_loop().call_later(COMMENT_S, self._comment)

    def _comment(self) -> None:
        self._plan_comment()
        self._forget()
        every = tuple(one for broadcast in self._broadcasts.values() for one in broadcast.watchers)
        frame = events.comment(self._replica.position, self._replica.stale_s)
        self._unsent.append(_Frame(every, frame, 0))
        self._pace.plan()

    def _forget(self) -> None:
        """Forgets what nobody has needed for a while, and the rest of it beyond a bound."""
        now_s = self._clock.monotonic_s()
        idle = [broadcast for broadcast in self._broadcasts.values() if not broadcast.users]
        spare = len(idle) - _IDLE_MAX
        for index, broadcast in enumerate(sorted(idle, key=_idle_s)):
            if index < spare or now_s - broadcast.idle_s > _IDLE_S:
                wanted = broadcast.feed.wanted
                del self._broadcasts[wanted]
                group = self._of_service[wanted.name]
                del group[wanted]
                if not group:
                    del self._of_service[wanted.name]


def _idle_s(broadcast: Broadcast) -> float:
    return broadcast.idle_s


WATCHES: Final = web.AppKey("watches", Watches)


async def follow(app: web.Application) -> AsyncIterator[None]:
    """Lets the watches of a server follow its replica for as long as it serves."""
    with app[WATCHES].following():
        yield


async def end(app: web.Application) -> None:
    """Tells every watcher when the server is about to end."""
    app[WATCHES].end()
