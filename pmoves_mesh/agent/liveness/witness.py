"""The witness: follows a suspicion until the node is heard again, or is stated lost.

`core.witness` has the rules. What a witness states is its own word about another node, so it goes
to the stream directly, under its own signature and under a message id that every witness would give the
same loss: of several who say so the stream keeps the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.liveness.lease import LeaseKeeper
from pmoves_mesh.core import envelope, witness
from pmoves_mesh.core.event import InstanceExpired, NodeLost
from pmoves_mesh.core.lease import connection_of
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.core.witness import Recent
from pmoves_mesh.ports import Bucket, Clock, EventLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.subscribers import Applied

_log: Final = structlog.get_logger(__name__)

_STEP_S: Final = 0.25
_CURRENT_S: Final = 1.0
_ANSWER_S: Final = 0.4
_REMEMBERED_MAX: Final = 4096

Gone = Callable[[], Awaitable[bool]]
"""Whether what made a node suspect is still so."""


async def _nothing() -> None:
    return


def _signs(node: NodeEntry) -> bool:
    return node.status == "alive" and node.latest.incarnation > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What makes a node suspect.

    Attributes:
        reason: for people.
        gone: whether it is still so; raises `LogError` if that cannot be seen now.
        patience_s: how many seconds it must last from now on.
        working: called several times a second while it is followed.
    """

    node: str
    reason: str
    gone: Gone
    patience_s: float = 0.0
    working: Callable[[], Awaitable[None]] = _nothing


class Witness:
    """Judges other nodes in this node's name."""

    def __init__(
        self,
        author: Author,
        replica: Replica,
        log: EventLog,
        leases: Bucket,
        keeper: LeaseKeeper,
        clock: Clock,
    ) -> None:
        self._author = author
        self._replica = replica
        self._log = log
        self._leases = leases
        self._keeper = keeper
        self._clock = clock
        self._lost = Recent(_REMEMBERED_MAX)
        self._ended = Recent(_REMEMBERED_MAX)

    @property
    def ttl_s(self) -> int:
        """Seconds after which a lease runs out."""
        return self._keeper.ttl_s

    @property
    def connection(self) -> str:
        """This node's connection; what was seen over one says nothing over the next."""
        return self._keeper.connection

    @property
    def may_judge(self) -> bool:
        """Whether this node is itself where it would have to be to know better than the others."""
        return self._log.connected and self._keeper.is_steady

    def alive(self) -> dict[str, NodeEntry]:
        """Returns the other nodes that live, as far as this replica knows."""
        nodes, own = self._replica.registry.nodes, self._author.node
        return {name: node for name, node in nodes.items() if node.status == "alive" and name != own}

    def signing(self) -> dict[str, NodeEntry]:
        """Returns those of them that sign, and so have a lease."""
        return {name: node for name, node in self.alive().items() if node.latest.incarnation > 0}

    def rank(self, about: str) -> int:
        """Returns how many witnesses are to judge a node before this one."""
        return witness.rank(self._author.node, about, self.signing())

    def early_rank(self, about: str, most: int) -> int | None:
        """Returns the same if it is below `most`; None if it is not, or if that node is not one to judge.

        All nodes ask this at once whenever a connection ends, so it looks at no more of them than it must.
        """
        nodes, own = self._replica.registry.nodes, self._author.node
        if about == own or about not in nodes or not _signs(nodes[about]):
            return None
        found = witness.rank(own, about, (name for name, node in nodes.items() if _signs(node)), most)
        return found if found < most else None

    def note(self, applied: Applied) -> None:
        """Takes note of whom others state lost; a subscriber of the replica."""
        event = applied.verified.event
        if isinstance(event, NodeLost) and applied.change.nodes:
            self._lost.note(event.node, self._clock.monotonic_s())
            _log.info("node lost", node=event.node, witness=event.witness, reason=event.reason)

    def note_ended(self, connection: str) -> None:
        """Takes note of a connection that ended."""
        self._ended.note(connection, self._clock.monotonic_s())

    async def has_been_silent(self, node: str, since: Stamp) -> bool:
        """Returns whether a node has said nothing since then."""
        entry = self._replica.registry.nodes.get(node)
        return entry is not None and entry.latest == since

    async def has_no_lease(self, node: str) -> bool:
        """Returns whether a node has no lease now.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        return await self._leases.get(node) is None

    async def is_cut_off(self, node: str, connection: str, *, seen: bool = False) -> bool:
        """Returns whether a node's lease still names a connection, which has ended.

        Args:
            node: whose lease.
            connection: that ended.
            seen: whether it was so before; then the lease may have run out meanwhile.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        entry = await self._leases.get(node)
        return seen if entry is None else connection_of(entry.value) == connection

    async def answers(self, node: str) -> bool:
        """Returns whether a node's host is there: it answers, were it only to refuse.

        The kernel of a host does so for a program that stands still.
        """
        entry = self._replica.registry.nodes.get(node)
        announced = entry.announced if entry is not None else None
        if announced is None or not announced.port:
            return False
        try:
            async with asyncio.timeout(_ANSWER_S):
                _, writer = await asyncio.open_connection(announced.host, announced.port)
        except ConnectionRefusedError:
            return True
        except (OSError, ValueError):
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def follow(self, suspicion: Suspicion) -> bool:
        """Follows a suspicion to its end.

        Returns:
            Whether the matter is settled: the node is stated lost, or was heard again. False if this
            node is in no state to tell.

        Raises:
            LogError: if the log cannot be reached.
        """
        connection = self.connection
        if await self._lasts(suspicion, suspicion.patience_s) and await self._outlives_storm(suspicion):
            await self._state_lost(suspicion)
            return True
        return self.may_judge and connection == self.connection

    async def _outlives_storm(self, suspicion: Suspicion) -> bool:
        if not await self._is_storm():
            return True
        _log.warning("most of the mesh seems lost; waiting once more", node=suspicion.node)
        return await self._lasts(suspicion, self.ttl_s)

    async def _lasts(self, suspicion: Suspicion, seconds: float) -> bool:
        """Returns whether a suspicion stands for so many seconds, as soon as it does not."""
        until_s, connection = self._clock.monotonic_s() + seconds, self.connection
        while await self._stands(suspicion) and connection == self.connection:
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                return True
            await self._clock.sleep(min(left_s, _STEP_S))
            await suspicion.working()
        return False

    async def _stands(self, suspicion: Suspicion) -> bool:
        if not self.may_judge or not await self._replica.wait_current(_CURRENT_S):
            return False
        return suspicion.node in self.alive() and await suspicion.gone() and self.may_judge

    async def _is_storm(self) -> bool:
        """Returns whether so many nodes seem lost at once that it may be the mesh that fails."""
        now_s, ttl_s = self._clock.monotonic_s(), self.ttl_s
        living = self.signing().keys()
        lost = self._lost.within(ttl_s, now_s) - living
        together = len(living) + len(lost) + 1  # this node lives too
        if not witness.is_storm(len(living | lost), together):
            return False  # so few are they all
        ended = self._ended.within(ttl_s, now_s)
        well = {name async for name in self._holding_on(ended)}
        return witness.is_storm(len(living - well) + len(lost), together)

    async def _holding_on(self, ended: set[str]) -> AsyncIterator[str]:
        """Yields who has a lease, and no ended connection in it."""
        async for entry in self._leases.load():
            if connection_of(entry.value) not in ended:
                yield entry.key

    async def _state_lost(self, suspicion: Suspicion) -> None:
        node = self.alive().get(suspicion.node)
        if node is None:
            return  # somebody was quicker, or it was heard again
        incarnation, revision = node.latest
        event = NodeLost(
            mesh=self._author.mesh,
            node=node.name,
            incarnation=incarnation,
            revision=revision,
            timestamp=iso(self._clock.now_ms()),
            witness=self._author.node,
            reason=suspicion.reason,
        )
        message_id = f"lost.{node.name}.{incarnation}.{revision}"
        await self._log.publish(envelope.seal(event, self._author.identity, message_id=message_id))

    async def state_expired(self, key: InstanceKey) -> None:
        """States that an instance of a lost node leaves the registry.

        Raises:
            LogError: if the log cannot be reached.
        """
        node = self._replica.registry.nodes.get(key.node)
        if node is None or node.status != "lost":
            return
        incarnation, revision = node.latest
        event = InstanceExpired(
            mesh=self._author.mesh,
            node=key.node,
            incarnation=incarnation,
            revision=revision,
            timestamp=iso(self._clock.now_ms()),
            service=key.service,
            id=key.id,
            witness=self._author.node,
        )
        message_id = f"expired.{key.node}.{key.service}.{key.id}.{incarnation}.{revision}"
        await self._log.publish(envelope.seal(event, self._author.identity, message_id=message_id))
