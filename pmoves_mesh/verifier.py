"""The verifier: fetches the certificates that events name, and keeps account of what it refuses."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Final

import msgspec
import structlog
from cryptography import x509
from msgspec import Struct

from pmoves_mesh.core import decrees, envelope, records
from pmoves_mesh.core.envelope import Proof, VerifiedEvent
from pmoves_mesh.core.event import Event, RootsRotated
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Roots, Turn
from pmoves_mesh.core.trust import Signer, Trust
from pmoves_mesh.errors import MalformedEvent, RemoteProtocolError, UntrustedIssuer
from pmoves_mesh.ports import Bucket, Clock, LogMessage

_log: Final = structlog.get_logger(__name__)

_COMPLAINT_EVERY_S: Final = 60.0
_COMPLAINERS_MAX: Final = 1000
_UNKNOWN_KEPT_S: Final = 5.0
_UNKNOWN_MAX: Final = 10_000
_MET_MAX: Final = 512


class Rejection(Struct, frozen=True, kw_only=True):
    """An event that was not accepted, for whoever asks why."""

    position: int
    subject: str
    reason: str
    detail: str


class Verifier:
    """Turns what the log holds into events that may be applied.

    Attributes:
        trust: the identities of this mesh.
        rejected: how many events were not accepted, by reason.
        rejections: the latest of those.
    """

    def __init__(
        self, trust: Trust, identities: Bucket, clock: Clock, *, accept_unsigned: bool = False
    ) -> None:
        self.trust: Final = trust
        self.accept_unsigned: Final = accept_unsigned
        self.rejected: Final[Counter[str]] = Counter()
        self.rejections: Final[deque[Rejection]] = deque(maxlen=100)
        self._identities = identities
        self._clock = clock
        self._unknown: dict[str, float] = {}
        self._met: OrderedDict[str, Proof] = OrderedDict()
        self._complained: dict[tuple[str, str], float] = {}

    async def unseal(self, message: LogMessage, proof: Proof | None = None) -> tuple[VerifiedEvent, ...]:
        """Returns what a message states; its signer's certificate is fetched if it is not known yet.

        Raises:
            RemoteProtocolError: if it is not accepted.
            LogUnavailable: if the signer's certificate cannot be fetched now.
        """
        name = envelope.signer_of(message.sealed)
        if name is not None and self.trust.signer(name) is None:
            await self._fetch(name)
        return self.unseal_now(message, proof)

    def unseal_now(self, message: LogMessage, proof: Proof | None = None) -> tuple[VerifiedEvent, ...]:
        """Returns what a message states, as `unseal` does, if its signer's certificate is known already.

        An event is met more than once: its author has it before the stream, and whoever writes the bucket
        takes it up after the replica did. Its signature is verified the first time.

        Raises:
            RemoteProtocolError: if it is not accepted.
        """
        signature = message.sealed.headers.get(envelope.SIGNATURE, "")
        met = self._met.get(signature)
        events = envelope.unseal(
            message.sealed,
            self.trust,
            time_ms=message.time_ms,
            position=message.position,
            accept_unsigned=self.accept_unsigned,
            proof=proof or met,
        )
        if proof is None and met is None and signature:
            self._met.update((signature, one.proof) for one in events if one.proof is not None)
            if len(self._met) > _MET_MAX:
                self._met.popitem(last=False)
        return events

    async def unseal_record(self, record: Record) -> tuple[VerifiedEvent, ...]:
        """Returns what a record of the registry bucket states, as `unseal` does for a message."""
        if record.certificate is not None:
            self._admit(record.certificate)
        return await self.unseal(message_of(record))

    async def proved(self, key: str, record: Record) -> tuple[VerifiedEvent, ...]:
        """Returns what a record states, if it proves itself and belongs under its key; else nothing.

        Raises:
            LogUnavailable: if a certificate cannot be fetched now.
        """
        try:
            found = await self.unseal_record(record)
        except RemoteProtocolError:
            return ()
        if record.ended is not None and not await self.proved(key, record.ended):
            return ()
        belongs = any(records.key_of(one.event) == key and one.event.stamp == record.stamp for one in found)
        return found if belongs else ()

    def whole(self, event: Event, message: LogMessage) -> Record:
        """Returns the record of an event, with what proves it even where the mesh lost that."""
        sealed = message.sealed
        record = records.record_of(sealed, event, position=message.position, time_ms=message.time_ms)
        certificate = self.trust.certificate(envelope.signer_of(sealed) or "")
        return msgspec.structs.replace(record, certificate=certificate)

    async def signer(self, name: str) -> Signer | None:
        """Returns an identity by its certificate's fingerprint, fetched if it is not known yet.

        Raises:
            MalformedEvent: if `name` is no fingerprint.
            LogUnavailable: if it cannot be fetched now.
        """
        if self.trust.signer(name) is None:
            await self._fetch(name)
        return self.trust.signer(name)

    async def admit_all(self) -> None:
        """Admits every certificate that the mesh knows, so that they need not be fetched one by one.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        async for entry in self._identities.load():
            self._admit(entry.value)

    async def learn_roots(self, registry: Bucket) -> None:
        """Takes the mesh's latest rotation of its CA from the registry bucket, if there was one.

        What a retired CA signed in its time can be verified only by whoever knows that CA, and a
        newcomer was given the present one alone.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        entry = await registry.get(records.ROOTS_KEY)
        record = records.readable(entry.value) if entry else None
        if record is None:
            return
        try:
            for verified in await self.unseal_record(record):
                if isinstance(verified.event, RootsRotated):
                    self.rotate(decrees.roots_of(verified.event, Turn(record.position, record.time_ms)))
        except RemoteProtocolError as error:
            self.refuse(message_of(record), error)

    def rotate(self, roots: Roots) -> None:
        """Believes the CA certificates that a rotation left, and no others."""
        self._believe(roots, [])

    def resume(self, roots: Roots) -> None:
        """Believes what a rotation left that was saved earlier, besides the CAs that this host was given.

        Those may be later ones, as after it slept through a rotation and joined again; which of them
        holds at which position, the stream then tells.
        """
        self._believe(roots, self.trust.roots)

    def _believe(self, roots: Roots, given: Iterable[x509.Certificate]) -> None:
        if not roots.certificates:
            return
        try:
            told = list(map(_certificate, roots.certificates))
            retired = [(_certificate(pem), position) for pem, position in roots.retired]
        except ValueError:
            _log.error("the CA certificates of a rotation cannot be read", position=roots.turn.position)
            return
        known = {*told, *(root for root, _ in retired)}
        self.trust.rotate([*told, *(root for root in given if root not in known)], retired)
        self._unknown.clear()  # what did not chain to the CAs of before may chain to these

    def refuse(self, message: LogMessage, error: RemoteProtocolError) -> None:
        """Counts an event that was not accepted; logs it once per signer, reason and minute."""
        self.rejected[error.reason] += 1
        sealed = message.sealed
        detail = str(error)[:300]
        self.rejections.append(
            Rejection(position=message.position, subject=sealed.subject, reason=error.reason, detail=detail)
        )
        self._complain(error.reason, envelope.signer_of(sealed) or "unsigned", detail)

    async def _fetch(self, name: str) -> None:
        """Looks a certificate up, unless that was tried in vain a moment ago."""
        if not (len(name) == 64 and name.isascii() and name.isalnum()):
            raise MalformedEvent(envelope.SIGNER, "is not a SHA-256 fingerprint in hex")
        now_s = self._clock.monotonic_s()
        if now_s - self._unknown.get(name, -_UNKNOWN_KEPT_S) < _UNKNOWN_KEPT_S:
            return
        entry = await self._identities.get(name)
        if entry is None or not self._admit(entry.value):
            if len(self._unknown) >= _UNKNOWN_MAX:
                self._unknown.clear()
            self._unknown[name] = now_s

    def _admit(self, der: bytes) -> bool:
        try:
            self.trust.admit(der)
        except UntrustedIssuer as error:
            self._complain("identity", error.signer, str(error)[:300])
            return False
        return True

    def _complain(self, reason: str, who: str, detail: str) -> None:
        now_s = self._clock.monotonic_s()
        key = (reason, who[:64])
        if now_s - self._complained.get(key, -_COMPLAINT_EVERY_S) < _COMPLAINT_EVERY_S:
            return
        if len(self._complained) >= _COMPLAINERS_MAX:
            self._complained.clear()
        self._complained[key] = now_s
        _log.warning("event rejected", reason=reason, signer=who[:64], detail=detail)


def message_of(record: Record) -> LogMessage:
    """Returns a record's event as the stream had it."""
    return LogMessage(sealed=record.sealed, position=record.position, time_ms=record.time_ms)


def _certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())
