"""The replica: the one loop that folds the log into this agent's registry and feeds its readers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final, Literal, TypeVar, get_args

import structlog

from pmoves_mesh import following, reading
from pmoves_mesh.core import continuity, envelope, projection, records
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.continuity import Reach
from pmoves_mesh.core.envelope import SealedEvent, VerifiedEvent
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    Event,
    InstanceEvicted,
    NodeAnnounced,
    RootsRotated,
    Stated,
)
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Anchor, Registry
from pmoves_mesh.errors import (
    CertificateRevoked,
    LogUnavailable,
    RemoteProtocolError,
    ReplicaBehindError,
)
from pmoves_mesh.moves import Moves
from pmoves_mesh.ports import Bucket, Clock, EventLog, LogMessage, TailBatch
from pmoves_mesh.reading import Proved
from pmoves_mesh.subscribers import Applied, Subscribers
from pmoves_mesh.verifier import Verifier, message_of

_log: Final = structlog.get_logger(__name__)

Repair = Literal["dropped", "fetched", "restated", "bucket", "truncated", "replaced"]
"""How a disagreement was mended: an instance that a manifest does not list was dropped, or one that it
lists was fetched; this node stated again what the mesh did not know of it; a key of the bucket was
written or removed; this replica began anew, since the stream was truncated, or made anew or restored."""

T = TypeVar("T")

_RETRY_S: Final = 0.1
_YIELD_EVERY: Final = 64
_DECREES: Final = (InstanceEvicted, CertificatesRevoked, RootsRotated)


class Replica:
    """This agent's copy of the registry.

    Attributes:
        registry: the copy itself; only this class changes it.
        stream_id: which stream its positions count in.
        pending: how many events the stream holds beyond those; None while that is not known.
        outcomes: how many events of a subject were applied, repeated, outdated; by both.
        verifier: what the events come through; it counts those that are refused.
        gaps: how many links in nodes' chains were missing.
        repairs: how often a disagreement with the stream or the bucket was found and mended.
    """

    def __init__(self, verifier: Verifier, log: EventLog, bucket: Bucket, clock: Clock) -> None:
        self.registry = Registry()
        self.stream_id = ""
        self.verifier: Final = verifier
        self.outcomes: Final[Counter[tuple[str, str]]] = Counter()
        self.gaps = 0
        self.repairs: Final[Counter[str]] = Counter(dict.fromkeys(get_args(Repair), 0))
        self._log = log
        self._bucket = bucket
        self._clock = clock
        self.pending: int | None = None
        self._informed = False
        self._current_s: float | None = None
        self._moves: Final = Moves()
        self._subscribers: Final = Subscribers()
        self._missing: dict[InstanceKey, None] = {}

    @property
    def position(self) -> int:
        """The last position of the stream that was folded in."""
        return self.registry.position

    @property
    def is_current(self) -> bool:
        """Whether everything the stream holds was folded in, and the log can be reached."""
        return self.pending == 0 and self._log.connected

    @property
    def follows(self) -> bool:
        """Whether it follows the stream at this moment, and has seen that this is the one that it knows."""
        return self.pending is not None and self._log.connected

    @property
    def is_informed(self) -> bool:
        """Whether it ever held what the stream held, so that what it lacks was not there."""
        return self._informed

    @property
    def stale_s(self) -> float | None:
        """Seconds since this replica was last current; None if it never was; 0 if it is now.

        For what an earlier run of this agent saved, the date tells, and that may have jumped.
        """
        if self.is_current:
            return 0.0
        if self._current_s is not None:
            return self._clock.monotonic_s() - self._current_s
        current_ms = self.registry.current_ms
        return max(0, self._clock.now_ms() - current_ms) / 1000 if current_ms else None

    async def run(self) -> None:
        """Follows the log for ever, from the position the registry is at.

        What a retired CA signed may stand after that position, and this host may have been given, or
        have written down, the CAs of today alone; so the latest rotation is learned first.

        Raises:
            SequenceGap: if the stream no longer continues this registry.
            LogError: if the stream is gone.
        """
        try:
            await self._patiently(lambda: self.verifier.learn_roots(self._bucket))
            await self._patiently(self._recall_decrees)
            while True:
                await self._follow()
        finally:
            self.pending = None

    async def _recall_decrees(self) -> None:
        """Learns from the bucket what was decreed before this stream, which cannot tell that."""
        for pattern in ("evicted.>", "revoked.>"):
            async for entry in self._bucket.load(pattern):
                if (record := records.readable(entry.value)) is not None and record.position == 0:
                    await self._fold_record(self.registry, record)

    async def _follow(self) -> None:
        """Follows the log until it is away; from the anchor on, so that its history is known again."""
        after = continuity.begin_after(self.position, self.registry.anchor)
        known, mesh = False, self.verifier.trust.mesh
        async with aclosing(self._log.tail(after)) as tail:
            async for batch in tail:
                if batch.pending is None:
                    self.pending = None
                    if known:
                        return
                elif known or batch.messages or batch.pending == 0:
                    try:
                        new = (
                            batch
                            if known
                            else await following.known_again(self._log, batch, self.registry, mesh)
                        )
                        await self._take(new)
                    except LogUnavailable:
                        self.pending = None
                        await self._clock.sleep(_RETRY_S)
                        return
                    known = True

    async def wait_position(self, position: int, timeout_s: float, *, following: bool = False) -> None:
        """Waits until the replica has folded in `position`.

        Args:
            position: of the stream.
            timeout_s: how long to wait.
            following: whether it must be a position of the stream as it is now, and the log be there.

        Raises:
            ReplicaBehindError: if it has not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position or (following and not self.follows):
                    await self._moves.reaching(position)
        except TimeoutError:
            raise ReplicaBehindError(self.position, position) from None

    async def wait_current(self, timeout_s: float) -> bool:
        """Waits until the replica is current, and returns whether it became so in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_current:
                    await self._moves.reaching(0)
        except TimeoutError:
            return False
        return True

    def subscribed(
        self, callback: Callable[[Applied], None], replaced: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[None]:
        """Calls `callback` for each event that is applied, in order, while the context lasts.

        `replaced` is called when another registry took this one's place. Both neither wait nor raise.
        """
        return self._subscribers.subscribed(callback, replaced)

    def apply_own(self, sealed: SealedEvent) -> None:
        """Folds in an event of this node that is durable here and on its way to the stream.

        What a service registers is found locally at once, whether or not the log can be reached.
        """
        now_ms = self._clock.now_ms()
        signer = self.verifier.trust.signer(envelope.signer_of(sealed) or "")
        if signer is not None:
            # A clock that is behind, on a host without a battery for it, is no reason to doubt oneself.
            now_ms = max(now_ms, signer.not_before_ms)
        try:
            events = self.verifier.unseal_now(LogMessage(sealed=sealed, position=0, time_ms=now_ms))
        except RemoteProtocolError as error:
            # Left in the outbox by a run with an earlier certificate: the stream will bring it.
            _log.info("own event not applied before the stream has it", detail=str(error))
            return
        for verified in events:
            self._continue_chain(verified.event)
            self._apply(self.registry, verified, position=0, time_ms=now_ms)

    def _continue_chain(self, event: Event) -> None:
        """Takes the link before an own event as known: the store has it, the stream may still bring it."""
        node = self.registry.nodes.get(event.node)
        if node is not None and event.stamp > node.latest:
            node.head = event.prev

    def restore(self, registry: Registry, stream_id: str) -> None:
        """Begins from a registry that was saved earlier, instead of an empty one."""
        self.registry = registry
        self.verifier.resume(registry.roots)
        self.stream_id = stream_id
        self._informed = stream_id != ""

    async def restore_from_bucket(self, floor: int, carried: Mapping[str, bytes] | None = None) -> Reach:
        """Begins from the registry bucket, complete up to `floor`, and returns how far that reaches.

        Args:
            floor: a position of the stream.
            carried: decrees that hold although the bucket may lack them, by their keys.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        await self.verifier.learn_roots(self._bucket)
        await self.verifier.admit_all()
        holding = await reading.read(self._bucket, carried or {})
        self._subscribers.forget()
        # What was followed before may hold what was removed since, so that is left behind.
        registry = Registry() if self.registry.position or carried is not None else self.registry
        reach = Reach(floor)
        await self._fold_pieces(registry, holding.before(), reach)
        for record in holding.decrees:
            reach.note(record)
            await self._fold_record(registry, record)
        await self._fold_pieces(registry, holding.since(), reach)
        registry.position = floor
        registry.current_ms = self.registry.current_ms
        registry.anchor = reach.anchor(self.verifier.trust.mesh)
        registry.version = max(registry.version, self.registry.version) + 1
        # The bucket holds the last link of each key, so missing ones say nothing.
        self.gaps = 0
        for node in registry.nodes.values():
            node.gaps = 0
        self.registry = registry
        self._subscribers.tell_replaced()
        self._subscribers.tell()
        self._informed = self._informed and carried is None
        return reach

    async def _take(self, batch: TailBatch) -> None:
        await following.check_whole(self._log, batch, self.position)
        for index, message in enumerate(batch.messages):
            await self._fold(message)
            if index % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
        self.pending = batch.pending
        if self.is_current:
            self._informed = True
            self._current_s, self.registry.current_ms = self._clock.monotonic_s(), self._clock.now_ms()
            await self._fetch_missing()
        self._moves.tell(self.position)

    async def _fold(self, message: LogMessage) -> None:
        try:
            events = await self._patiently(lambda: self.verifier.unseal(message))
        except RemoteProtocolError as error:
            self.registry.position = max(self.registry.position, message.position)
            self.verifier.refuse(message, error)
            return
        for verified, change in self._apply_all(self.registry, events, message):
            if change.outcome == "applied":
                self.registry.anchor = Anchor(message.position, verified.digest)
            if isinstance(verified.event, NodeAnnounced):
                gone = sum(self.registry.entry(key) is None for key in change.instances)
                self.repairs["dropped"] += gone

    def _apply_all(
        self,
        registry: Registry,
        events: tuple[VerifiedEvent, ...],
        message: LogMessage,
        *,
        told: bool = True,
    ) -> list[tuple[VerifiedEvent, Change]]:
        changes, position, time_ms = [], message.position, message.time_ms
        for verified in events:
            change = self._apply(registry, verified, position=position, time_ms=time_ms, told=told)
            event = verified.event
            if change.outcome == "revoked":
                at = registry.revoked[verified.fingerprint]
                self.verifier.refuse(message, CertificateRevoked(verified.signer, at))
            elif change.outcome == "applied" and isinstance(event, _DECREES):
                registry.decrees[records.key_of(event)] = records.encode(self.verifier.whole(event, message))
            changes.append((verified, change))
        return changes

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Waits for the log where something must come from it: no event is refused for an outage."""
        while True:
            try:
                return await ask()
            except LogUnavailable:
                await self._clock.sleep(_RETRY_S)

    async def _fold_pieces(self, registry: Registry, pieces: Iterable[list[Proved]], reach: Reach) -> None:
        for piece in pieces:
            await reading.prove(piece, self.verifier.trust)
            for index, one in enumerate(piece):
                reach.note(one.record)
                try:
                    if one.proof is None or one.record.ended is not None:
                        await self._fold_record(registry, one.record)
                    else:
                        events = self.verifier.unseal_now(one.message, one.proof)
                        self._fold_held(registry, events, one.message, told=False)
                except RemoteProtocolError as error:
                    self.verifier.refuse(one.message, error)
                if index % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)

    async def _fold_record(self, registry: Registry, record: Record) -> None:
        if record.ended is not None:
            await self._fold_record(registry, record.ended)
        message = message_of(record)
        try:
            events = await self._patiently(lambda: self.verifier.unseal_record(record))
        except RemoteProtocolError as error:
            self.verifier.refuse(message, error)
        else:
            self._fold_held(registry, events, message)

    def _fold_held(
        self,
        registry: Registry,
        events: tuple[VerifiedEvent, ...],
        message: LogMessage,
        *,
        told: bool = True,
    ) -> None:
        """Folds in what the bucket holds, which says nothing of how far the stream was followed."""
        followed = registry.position
        self._apply_all(registry, events, message, told=told)
        registry.position = followed

    def _apply(
        self, registry: Registry, verified: VerifiedEvent, *, position: int, time_ms: int, told: bool = True
    ) -> Change:
        """Folds in an event; unless `told`, no reader is told of an owner's statement by itself."""
        before, event = registry.roots, verified.event
        change = projection.apply(registry, verified, position=position, time_ms=time_ms)
        self.outcomes[event.subject, change.outcome] += 1
        self.gaps += change.gap
        self._missing.update(dict.fromkeys(change.missing))
        if registry.roots is not before:
            self.verifier.rotate(registry.roots)
        if (change.outcome == "applied" or change.instances) and (told or not isinstance(event, Stated)):
            self._subscribers.note(Applied(verified=verified, change=change, position=position))
            if registry is self.registry:
                self._subscribers.tell()
        return change

    async def _fetch_missing(self) -> None:
        """Fetches from the bucket what a manifest lists and the stream did not bring."""
        for key in tuple(self._missing):
            self._missing.pop(key, None)
            node = self.registry.nodes.get(key.node)
            if node is None or key not in node.missing:
                continue
            try:
                entry = await self._bucket.get(records.instance_key(key))
            except LogUnavailable:
                self._missing[key] = None
                return
            if entry is not None and (record := records.readable(entry.value)) is not None:
                await self._fold_record(self.registry, record)
                self.repairs["fetched"] += key not in node.missing
