"""Auditing a mesh's whole past: walks the stream with a verifier of its own, and believes no agent."""

from __future__ import annotations

import asyncio
from typing import Final

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core import decrees, envelope, records
from pmoves_mesh.core.audit import Audit, Report
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import CertificatesRevoked, InstanceEvicted, RootsRotated
from pmoves_mesh.core.registry import Registry, Turn
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import CertificateRevoked, LogUnavailable, RemoteProtocolError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.ports import Bucket, EventLog, LogBounds, LogMessage
from pmoves_mesh.progress import Progress, unheard
from pmoves_mesh.verifier import Verifier

_CONNECT_S: Final = 5.0
_REVOCATIONS: Final = "revoked.>"


def run(config: Config, progress: Progress = unheard) -> Report:
    """Audits the mesh of these settings, and returns what it found; blocks until it is done.

    Raises:
        LogError: if the log cannot be reached or read.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_run(config, progress))


async def _run(config: Config, progress: Progress) -> Report:
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_S)
        identities = NatsBucket(connection, topology.IDENTITIES)
        verifier = Verifier(trust, identities, SystemClock(), accept_unsigned=config.accept_unsigned)
        registry = NatsBucket(connection, topology.REGISTRY)
        return await audit(NatsEventLog(connection), registry, verifier, progress)


async def audit(log: EventLog, registry: Bucket, verifier: Verifier, progress: Progress = unheard) -> Report:
    """Walks the stream from its first event to the one that is the last when the walk begins.

    Args:
        log: the stream.
        registry: the bucket that has the latest roots, and revocations that the stream dropped.
        verifier: one of its own, to which nothing was said yet.
        progress: is told how far the walk is.

    Raises:
        LogUnavailable: if the log cannot be reached.
        LogError: if the stream is gone, or was made anew meanwhile.
    """
    await verifier.learn_roots(registry)
    await verifier.admit_all()
    bounds = await log.bounds()
    walk = _Walk(verifier, bounds)
    await walk.begin(registry)
    if bounds.first <= bounds.last:
        await _follow(log, walk, bounds, progress)
    await walk.compare(registry, log)
    return walk.audit.report()


async def _follow(log: EventLog, walk: _Walk, bounds: LogBounds, progress: Progress) -> None:
    async for batch in log.tail(bounds.first - 1):
        if batch.pending is None:
            raise LogUnavailable("the connection to NATS was lost in the middle of the audit")
        for message in batch.messages:
            if message.position <= bounds.last:
                await walk.check(message)
                read = message.position - bounds.first + 1
                progress("checking the stream", read, bounds.last - bounds.first + 1)
        if batch.pending == 0 or (batch.messages and batch.messages[-1].position >= bounds.last):
            return
        await asyncio.sleep(0)


class _Walk:
    """What is known on the way: which certificates and roots hold at the position that was reached."""

    def __init__(self, verifier: Verifier, bounds: LogBounds) -> None:
        self.audit: Final = Audit(bounds.first)
        self._verifier = verifier
        self._first = bounds.first
        self._last = bounds.last
        self._decreed = Registry()
        self._roots_at = 0

    async def begin(self, registry: Bucket) -> None:
        """Takes from the bucket what was decreed before the stream's first event."""
        async for entry in registry.load(_REVOCATIONS):
            for one, position in await self._recorded(entry.value):
                if position < self._first:
                    self._heed(one, Turn(position, 0))
        roots = await registry.get(records.ROOTS_KEY)
        record = records.readable(roots.value) if roots else None
        self._roots_at = record.position if record else 0

    async def check(self, message: LogMessage) -> None:
        """Checks one event of the stream."""
        sealed, position = message.sealed, message.position
        try:
            verified = await self._verifier.unseal(message)
            self._check_revoked(verified, position)
        except RemoteProtocolError as error:
            trust = self._verifier.trust
            name = envelope.signer_of(sealed)
            signer = trust.signer(name) if name else None
            self.audit.refuse(
                sealed,
                error,
                position=position,
                signer=signer.id if signer else (name or "nobody")[:64],
                digest=_digest(message, trust.mesh),
            )
            return
        for one in verified:
            self._heed(one, Turn(position, message.time_ms))
        self.audit.accept(sealed, verified, position)

    async def compare(self, registry: Bucket, log: EventLog) -> None:
        """Asks the registry bucket for events that the stream should hold, after the walk through it."""
        lacking = [
            (one, position)
            async for entry in registry.load()
            for one, position in await self._recorded(entry.value)
            if position >= self._first and self.audit.lacks(one)
        ]
        last = (await log.bounds()).last
        for one, position in sorted(lacking, key=lambda each: each[1]):
            # What came since the walk began is not missing: nobody looked for it.
            if not self._last < position <= last:
                self.audit.miss(one, position)

    async def _recorded(self, value: bytes) -> list[tuple[VerifiedEvent, int]]:
        """Returns what a record of the bucket states, if it may be believed, and its position."""
        record = records.readable(value)
        if record is None:
            return []
        message = LogMessage(sealed=record.sealed, position=record.position, time_ms=record.time_ms)
        try:
            verified = await self._verifier.unseal(message)
            self._check_revoked(verified, record.position)
        except RemoteProtocolError:
            return []  # what is wrong with the bucket says nothing of the stream
        return [(one, record.position) for one in verified]

    def _check_revoked(self, verified: tuple[VerifiedEvent, ...], position: int) -> None:
        for one in verified:
            if decrees.is_revoked(self._decreed, one, position=position):
                raise CertificateRevoked(one.signer, self._decreed.revoked[one.fingerprint])

    def _heed(self, verified: VerifiedEvent, turn: Turn) -> None:
        event = verified.event
        if isinstance(event, (InstanceEvicted, CertificatesRevoked, RootsRotated)):
            decrees.decreed(self._decreed, event, turn)
        # What the bucket gave is later, and knows every root that was retired since.
        if isinstance(event, RootsRotated) and turn.position > self._roots_at:
            self._verifier.rotate(self._decreed.roots)


def _digest(message: LogMessage, mesh: str) -> str:
    try:
        return envelope.digest(message.sealed, mesh)
    except RemoteProtocolError:
        return ""
