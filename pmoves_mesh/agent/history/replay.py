"""Replaying: the registry as it was at a moment, from the nearest checkpoint and the events behind it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from pmoves_mesh.core import checkpoint, moments, projection, records
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import CertificatesRevoked, InstanceEvicted, RootsRotated
from pmoves_mesh.core.history import CheckpointRef, MomentView
from pmoves_mesh.core.milestones import joins
from pmoves_mesh.core.moments import Kept, Moment
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.registry import Anchor, Registry
from pmoves_mesh.errors import (
    CertificateRevoked,
    MalformedEvent,
    RemoteProtocolError,
    UnsupportedVersion,
    UntrustedIssuer,
)
from pmoves_mesh.ports import Bucket, LogMessage
from pmoves_mesh.verifier import Verifier, message_of

_log: Final = structlog.get_logger(__name__)

_YIELD_EVERY: Final = 64
_BEFORE: Final = ("evicted.>", "revoked.>")


class Past(Protocol):
    """The stream, read back; implemented by `log.past.NatsPast`."""

    async def kept(self) -> Kept:
        """Returns what the stream holds."""

    def stretch(
        self, after: int, last: int, subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        """Yields the events behind `after`, up to `last`, in groups and in order, then ends."""


class Checkpoints(Protocol):
    """The snapshots of the past that nodes made; implemented by `log.checkpoints.NatsCheckpoints`.

    Every method raises `LogUnavailable` as buckets do.
    """

    async def listed(self) -> Sequence[Place]:
        """Returns of what there are some, of this stream or another one, by their own account."""

    async def read(self, place: Place) -> bytes | None:
        """Returns the bytes of one; None if they are gone, or are not those that were written."""

    async def write(self, place: Place, data: bytes) -> bool:
        """Keeps one, unless there is one of that place, and returns whether it did."""

    async def delete(self, place: Place) -> None:
        """Removes one."""


@dataclass(slots=True)
class Replayed:
    """A registry at a moment of the past; whoever has it may fold it on.

    Attributes:
        registry: as it was.
        position: of the last event that had happened by then.
        time_ms: when the stream took that, unix milliseconds; 0 if there was none.
        checkpoint: what it rests on; None if it was folded from the stream's start.
    """

    registry: Registry
    position: int
    time_ms: int
    checkpoint: CheckpointRef | None

    def view(self) -> MomentView:
        """Returns the moment as readers see it."""
        return MomentView(position=self.position, time=iso(self.time_ms), checkpoint=self.checkpoint)


class Replayer:
    """Folds the stream of one mesh, as often as it is asked, with a verifier of its own.

    Attributes:
        verifier: knows the roots and certificates of the whole past.
        refused: how many checkpoints were not used, by reason.
        unbelieved: which ones that were, unless a later release may have written them.
    """

    def __init__(self, past: Past, checkpoints: Checkpoints, registry: Bucket, verifier: Verifier) -> None:
        self.verifier: Final = verifier
        self.refused: Final[Counter[str]] = Counter()
        self.unbelieved: Final[set[Place]] = set()
        self._past = past
        self._checkpoints = checkpoints
        self._bucket = registry
        self._roots_at = 0
        self._admitted = False

    async def prepare(self) -> Registry:
        """Learns whom the mesh believes and believed, and returns what was decreed: revocations above all.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        await self.verifier.learn_roots(self._bucket)
        entry = await self._bucket.get(records.ROOTS_KEY)
        record = records.readable(entry.value) if entry else None
        self._roots_at = record.position if record else 0
        if not self._admitted:
            await self.verifier.admit_all()
            self._admitted = True
        return await self._decreed(before_only=False)

    async def begins(self, kept: Kept) -> tuple[int, int]:
        """Returns the first position of which the whole registry can be told, and its time.

        A stream that lost its beginning tells everything only from the first checkpoint on that joins it.
        """
        if kept.first <= 1:
            return kept.first, kept.first_ms
        places = [place for place in await self._checkpoints.listed() if joins(place, kept)]
        if not places:
            return kept.last + 1, kept.last_ms
        first = places[0]
        if first.position < kept.first:
            return kept.first, kept.first_ms
        return first.position, first.time_ms

    async def at(self, moment: Moment, kept: Kept, *, onward: Replayed | None = None) -> Replayed:
        """Returns the registry at a moment.

        Args:
            moment: when.
            kept: what the stream holds, as it said a moment ago.
            onward: an earlier moment's, which may be folded on if nothing nearer is at hand; it is used up.

        Raises:
            BeforeHistoryError: if the stream no longer tells.
            InvalidFieldError: if it does not tell yet.
            LogUnavailable: if the log cannot be reached.
        """
        moments.check(moment, kept, *await self.begins(kept))
        decreed = await self.prepare()
        after = -1 if onward is None else onward.position
        found = await self._nearest(moment, kept, decreed, after) or onward or await self._beginning()
        last = kept.last if moment.position is None else min(moment.position, kept.last)
        if found.registry.position < last:
            await self._fold_on(found, moment, last)
        return found

    async def onward(self, held: Replayed, moment: Moment, kept: Kept) -> Replayed:
        """Returns the registry at a later moment by folding on an earlier one, whatever is nearer."""
        if held.registry.position < kept.last:
            await self._fold_on(held, moment, kept.last)
        return held

    async def _nearest(self, moment: Moment, kept: Kept, decreed: Registry, after: int) -> Replayed | None:
        """Returns the latest checkpoint that may be used, if one is nearer than `after`."""
        for place in reversed(await self._checkpoints.listed()):
            if not joins(place, kept) or place.position <= after:
                continue
            if moment.includes(place.position, place.time_ms):
                try:
                    return await self._opened(place, decreed)
                except RemoteProtocolError as error:
                    self.refused[error.reason] += 1
                    if not isinstance(error, UnsupportedVersion):
                        self.unbelieved.add(place)
                    _log.warning(
                        "checkpoint not used", position=place.position, reason=error.reason, detail=str(error)
                    )
        return None

    async def _opened(self, place: Place, decreed: Registry) -> Replayed:
        """Returns what a checkpoint holds.

        Raises:
            RemoteProtocolError: if it must not be believed.
        """
        verifier = self.verifier
        data = await self._checkpoints.read(place)
        if data is None:
            raise MalformedEvent("checkpoint", "its bytes are not those that were written")
        sealed = checkpoint.read(data, verifier.trust.mesh, place)
        signer = await verifier.signer(sealed.signer)
        if signer is None:
            raise UntrustedIssuer(sealed.signer, "its certificate is not known")
        if not verifier.trust.holds(signer.root, place.position):
            raise UntrustedIssuer(sealed.signer, "the CA that issued its certificate was replaced before")
        if signer.fingerprint in decreed.revoked:
            raise CertificateRevoked(signer.id, decreed.revoked[signer.fingerprint])
        registry = checkpoint.unseal(sealed, signer)
        ref = CheckpointRef(position=place.position, signer=signer.id)
        return Replayed(registry, place.position, place.time_ms, ref)

    async def _beginning(self) -> Replayed:
        """Returns the registry before the stream's first event, in which earlier streams' decrees hold."""
        return Replayed(await self._decreed(before_only=True), 0, 0, None)

    async def _decreed(self, *, before_only: bool) -> Registry:
        registry = Registry()
        for pattern in _BEFORE:
            async for entry in self._bucket.load(pattern):
                record = records.readable(entry.value)
                if record is None or (before_only and record.position):
                    continue
                message = message_of(record)
                try:
                    events = await self.verifier.unseal_record(record)
                except RemoteProtocolError:
                    continue  # whoever wrote that into the bucket changes nothing here
                for verified in events:
                    self._apply(registry, verified, message)
        registry.position = 0
        return registry

    async def _fold_on(self, found: Replayed, moment: Moment, last: int) -> None:
        """Folds in what happened until a moment."""
        async with aclosing(self._past.stretch(found.registry.position, last)) as groups:
            async for messages in groups:
                for index, message in enumerate(messages):
                    if not moment.includes(message.position, message.time_ms):
                        return
                    await self._fold(found, message)
                    if index % _YIELD_EVERY == _YIELD_EVERY - 1:
                        await asyncio.sleep(0)

    async def _fold(self, found: Replayed, message: LogMessage) -> None:
        registry = found.registry
        found.position, found.time_ms = message.position, message.time_ms
        try:
            events = await self.verifier.unseal(message)
        except RemoteProtocolError:
            registry.position = message.position
            return
        for verified in events:
            self._apply(registry, verified, message)

    def _apply(self, registry: Registry, verified: VerifiedEvent, message: LogMessage) -> None:
        position, event = message.position, verified.event
        before = registry.roots
        change = projection.apply(registry, verified, position=position, time_ms=message.time_ms)
        if change.outcome != "applied":
            return
        registry.anchor = Anchor(position, verified.digest)
        if isinstance(event, InstanceEvicted | CertificatesRevoked | RootsRotated):
            registry.decrees[records.key_of(event)] = records.encode(self.verifier.whole(event, message))
        # What the bucket gave is later, and knows every root that was retired since.
        if registry.roots is not before and position > self._roots_at:
            self.verifier.rotate(registry.roots)
