"""The author: this node's own words, stamped, chained, sealed, and durable before anything else."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent, SigningIdentity
from pmoves_mesh.core.event import Event, InstanceUnregistered
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import CapacityError, StoreError
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.records import Commit, NodeState, OutboxEntry, Outgoing, StoredRegistration
from pmoves_mesh.store.store import Store

Place = dict[str, Any]
"""An event's place in its node's order: the fields `mesh node incarnation revision prev timestamp`."""

_ALIAS_TTL_S: Final = 60
"""The older word for a removal serves listeners, not history: the stream need not keep it."""

_DISK_S: Final = 30.0

_APART: Final = 2**16


class Author:
    """States events in this node's name, each with the next revision.

    A stated event is durable in the store, then folded into this node's replica, then on its
    way to the stream, where events stand in the order in which they were stated. Each names the
    one before it, so if one cannot be stored, those that were stated after it are not stored either.
    """

    def __init__(
        self,
        node: str,
        identity: SigningIdentity,
        store: Store,
        replica: Replica,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self.node: Final = node
        self.identity = identity
        self.mesh: Final = replica.verifier.trust.mesh
        self._store = store
        self._replica = replica
        self._outbox = outbox
        self._clock = clock
        self._state = store.state
        self._heads: Final[deque[str]] = deque()
        self._finished = False

    @property
    def stamp(self) -> Stamp:
        """The stamp of the latest event."""
        return Stamp(self._state.incarnation, self._state.revision)

    def place(self) -> Place:
        """Returns the place that the next event will have."""
        state = self._state
        return {
            "mesh": self.mesh,
            "node": self.node,
            "incarnation": state.incarnation,
            "revision": state.revision + 1,
            "prev": state.head,
            "timestamp": iso(self._clock.now_ms()),
        }

    async def state(
        self,
        build: Callable[[Place], Sequence[Event]],
        *,
        upsert: StoredRegistration | None = None,
        delete: InstanceKey | None = None,
    ) -> asyncio.Future[int]:
        """States what `build` makes of the next place; the future gives its position in the stream.

        The order of events is the order of these calls: the place is taken before anything is
        waited for. If the caller is cancelled meanwhile, the events are stated nevertheless.

        Args:
            build: makes the event, and perhaps the same fact under an older word, of one place.
            upsert: a registration that becomes durable together with the event.
            delete: a registration that goes together with the event.

        Raises:
            StoreError: if it cannot be made durable, or the last word was said. Then nothing was
                stated, unless the disk takes longer than 30 s: then it is stated when that is done.
            CapacityError: if too many events wait already.
        """
        if self._finished:
            raise StoreError(self.node, "its agent is leaving the mesh")
        before = self._state.head
        sealed = [envelope.seal(event, self.identity) for event in build(self.place())]
        self._state = NodeState(
            incarnation=self._state.incarnation,
            revision=self._state.revision + 1,
            head=envelope.digest(sealed[0], self.mesh),
        )
        commit = Commit(
            state=self._state,
            upserts=(upsert,) if upsert else (),
            deletes=((delete.service, delete.id),) if delete else (),
            appends=tuple(_outgoing(one) for one in sealed),
            follows=before,
        )
        self._heads.append(self._state.head)
        # It has its place and may be durable at any moment, so it goes out even if nobody waits any more.
        stated: asyncio.Future[asyncio.Future[int]] = asyncio.get_running_loop().create_future()
        self._store.commit(commit).add_done_callback(partial(self._committed, commit, stated))
        await asyncio.wait((stated,), timeout=_DISK_S)
        if not stated.done():
            raise StoreError(self.node, f"the disk took longer than {_DISK_S:.0f} s: is it failing?")
        return stated.result()

    async def finish(self, build: Callable[[Place], Sequence[Event]]) -> asyncio.Future[int]:
        """States what `build` makes of the next place, and refuses to state anything after it.

        Raises:
            StoreError: as `state` does.
        """

        def last(place: Place) -> Sequence[Event]:
            self._finished = True
            return build(place)

        return await self.state(last)

    def _committed(
        self,
        commit: Commit,
        stated: asyncio.Future[asyncio.Future[int]],
        written: asyncio.Future[tuple[int, ...]],
    ) -> None:
        """Sends out what is durable now, or takes back what could not be made so, and tells who waits."""
        try:
            stated.set_result(self._send(commit, written.result()))
        except (StoreError, CapacityError) as error:
            self._take_back(commit)
            stated.set_exception(error)
            stated.exception()  # whoever waits is told; if nobody does, nobody need be
        except Exception as error:  # noqa: BLE001 - whoever stated it hears of it, as of any fault in a call
            stated.set_exception(error)

    def _send(self, commit: Commit, seqs: tuple[int, ...]) -> asyncio.Future[int]:
        while self._heads.popleft() != commit.state.head:
            pass
        futures = [
            self._outbox.put(OutboxEntry(seq=seq, sealed=one.sealed, ttl_s=one.ttl_s))
            for seq, one in zip(seqs, commit.appends, strict=True)
        ]
        self._replica.apply_own(commit.appends[0].sealed)
        return futures[0]

    def _take_back(self, commit: Commit) -> None:
        """Lets the next event follow the last one that is stored, or still may be; revisions go on.

        What was stated meanwhile follows the one that failed, so it fails as well.
        """
        if commit.state.head not in self._heads:
            return
        while self._heads.pop() != commit.state.head:
            pass
        self._state = msgspec.structs.replace(self._state, head=commit.follows)

    async def begin(self, above: int = 0) -> None:
        """Begins a new incarnation, later than every earlier one and than `above`.

        How much later is random: of two runs with one identity, which outrank each other while their
        clocks are behind, neither may say anything under the other's stamp. Where `above` is near the
        highest that anybody believes, as only a liar's is, there is room for less.

        Raises:
            StoreError: if it cannot be made durable; what is stated next makes it so.
        """
        now_ms, before = self._clock.now_ms(), max(self._state.incarnation, above)
        room = now_ms + envelope.AHEAD_MAX_MS - before
        later = before + 1 + secrets.randbelow(max(1, min(_APART, room // 2)))
        head = self._state.head
        self._state = NodeState(incarnation=max(now_ms, later), revision=0, head=head)
        await self._store.commit(Commit(state=self._state, follows=head))


def _outgoing(sealed: SealedEvent) -> Outgoing:
    ttl_s = _ALIAS_TTL_S if sealed.subject == InstanceUnregistered.subject else None
    return Outgoing(sealed=sealed, ttl_s=ttl_s)
