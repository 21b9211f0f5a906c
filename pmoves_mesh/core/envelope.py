"""Sealing and unsealing: the signature in the headers, over the exact bytes of the payload.

`unseal` is the one place where a `VerifiedEvent` comes from. Since the signature covers the
payload as it stands, no canonical JSON is needed; since it covers the mesh, the subject and the
message id too, an event cannot be replayed as another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct

from pmoves_mesh.core import foreign, wire
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    Event,
    InstanceEvicted,
    InstanceExpired,
    NodeAnnounced,
    NodeLost,
    RootsRotated,
    Stated,
)
from pmoves_mesh.core.limits import allows
from pmoves_mesh.core.trust import Signer, SignerKind, Trust
from pmoves_mesh.errors import (
    AheadOfTime,
    BadSignature,
    CertificateNotHeld,
    ForeignMesh,
    MalformedEvent,
    ServiceNotAllowed,
    SignerNotEntitled,
    Unsigned,
    UntrustedIssuer,
)

MESSAGE_ID: Final = "Nats-Msg-Id"
FORMAT: Final = "Mesh-Format"
SIGNER: Final = "Mesh-Signer"
SIGNATURE: Final = "Mesh-Signature"

AHEAD_MAX_MS: Final = 100 * 365 * 86_400_000
"""Incarnations are times in milliseconds. A clock may be as wrong as this; anything further ahead is meant
to be outranked by nobody, and what lies within can be outranked at any later moment."""

_DOMAIN: Final = "pmoves-mesh event"
_TOLERANCE_MS: Final = 5 * 60 * 1000


class SealedEvent(Struct, frozen=True, kw_only=True, gc=False):
    """An event as it travels: the payload's bytes, and the headers that vouch for them."""

    subject: str
    payload: bytes
    headers: dict[str, str] = {}

    @property
    def message_id(self) -> str:
        """What the stream recognises a repetition by; empty if the sender gave none."""
        return self.headers.get(MESSAGE_ID, "")


class SigningIdentity(Protocol):
    """Whoever can sign: a key and the certificate that speaks for it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate (DER), in hex."""
        ...

    def sign(self, statement: bytes) -> bytes:
        """Returns the ECDSA P-256 signature of SHA-256 of `statement`, DER-encoded."""
        ...


_UNSEALED: Final = object()


class VerifiedEvent:
    """An event that may be applied: its signature was verified, or the mesh accepts it unsigned.

    Attributes:
        event: what is stated.
        signer: the SPIFFE ID of who signed it; empty for an accepted unsigned event.
        fingerprint: of the signer's certificate; empty likewise.
        verified: False for an accepted unsigned event.
        digest: identifies the event; the author's next event names it as `prev`.
        proof: of its signature; None for an accepted unsigned event.
    """

    __slots__ = ("digest", "event", "fingerprint", "proof", "signer", "verified")

    def __init__(self, event: Event, proof: Proof | None, digest: str, *, _by: object = None) -> None:
        if _by is not _UNSEALED:
            raise TypeError("a VerifiedEvent comes from envelope.unseal alone")
        self.event: Final = event
        self.signer: Final = proof.signer.id if proof else ""
        self.fingerprint: Final = proof.signer.fingerprint if proof else ""
        self.verified: Final = proof is not None
        self.digest: Final = digest
        self.proof: Final = proof


class Proof:
    """That a sealed event bears its signer's signature; `prove` and `unseal` alone can tell.

    It holds for that event wherever it is met again, as what was seen on its way to the stream and comes
    from there. It says nothing of whether the signer is believed now, or may state this: `unseal` asks that.
    """

    __slots__ = ("sealed", "signer", "statement")

    def __init__(self, sealed: SealedEvent, signer: Signer, statement: bytes, *, _by: object = None) -> None:
        if _by is not _UNSEALED:
            raise TypeError("a Proof comes from envelope.prove alone")
        self.sealed: Final = sealed
        self.signer: Final = signer
        self.statement: Final = statement


def seal(event: Event, identity: SigningIdentity, *, message_id: str | None = None) -> SealedEvent:
    """Returns `event` signed by `identity`.

    Args:
        event: what is stated.
        identity: who states it.
        message_id: what the stream recognises a repetition by; by default the author's stamp.

    Raises:
        LocalProtocolError: if the event is larger than an event may be.
    """
    payload = wire.encode(event)
    if message_id is None:
        message_id = stamped_id(event)
    statement = _statement(wire.FORMAT, event.mesh, event.subject, message_id, payload)
    signature = base64.b64encode(identity.sign(statement)).decode()
    return SealedEvent(
        subject=event.subject,
        payload=payload,
        headers={
            MESSAGE_ID: message_id,
            FORMAT: wire.FORMAT,
            SIGNER: identity.fingerprint,
            SIGNATURE: signature,
        },
    )


def stamped_id(event: Event) -> str:
    """Returns the message id that an event has unless its author gives it another: a repetition's differs."""
    return f"{event.type}.{event.node}.{event.incarnation}.{event.revision}"


def digest(sealed: SealedEvent, mesh: str) -> str:
    """Returns what the author's next event names as `prev`: SHA-256 over all that is signed, in hex."""
    headers = sealed.headers
    version = headers.get(FORMAT, "")
    statement = _statement(version, mesh, sealed.subject, sealed.message_id, sealed.payload)
    return hashlib.sha256(statement).hexdigest()


def signer_of(sealed: SealedEvent) -> str | None:
    """Returns the fingerprint that a sealed event names as its signer's, or None if it is unsigned."""
    return sealed.headers.get(SIGNER)


def prove(sealed: SealedEvent, trust: Trust) -> Proof | None:
    """Verifies the signature of a sealed event alone, which takes most of the time and no lock.

    None where there is no valid one, or its signer is not known: `unseal` then says what is wrong.
    """
    headers = sealed.headers
    signer = trust.signer(headers.get(SIGNER, ""))
    if signer is None or SIGNATURE not in headers:
        return None
    try:
        version, signature = headers.get(FORMAT, ""), _signature(headers)
        statement = _statement(version, trust.mesh, sealed.subject, sealed.message_id, sealed.payload)
    except MalformedEvent:
        return None
    return Proof(sealed, signer, statement, _by=_UNSEALED) if signer.verifies(signature, statement) else None


def unseal(
    sealed: SealedEvent,
    trust: Trust,
    *,
    time_ms: int,
    position: int,
    accept_unsigned: bool = False,
    proof: Proof | None = None,
) -> tuple[VerifiedEvent, ...]:
    """Returns what a sealed event states, once it is known who says so.

    One event for a signed message. An accepted unsigned one may state two things: a node, and
    the service that it is.

    Args:
        sealed: what arrived.
        trust: the identities of this mesh; the signer's certificate must have been admitted.
        time_ms: the stream's timestamp of the event, unix milliseconds.
        position: the stream's sequence; it orders the statements of nodes that do not sign.
        accept_unsigned: whether an event without a signature is read at all.
        proof: of this very event's signature, where that was verified already; another's is no help.

    Raises:
        RemoteProtocolError: one of its subclasses, which says why the event is not accepted.
    """
    headers = sealed.headers
    if SIGNATURE not in headers:
        if not accept_unsigned:
            raise Unsigned(f"unsigned event on {sealed.subject[:128]}")
        events = foreign.read(sealed.subject, sealed.payload, mesh=trust.mesh, position=position)
        token = digest(sealed, trust.mesh)
        return tuple(VerifiedEvent(event, None, token, _by=_UNSEALED) for event in events)
    wire.check_format(headers.get(FORMAT, ""))
    signer = _believed(headers, trust, time_ms, position)
    if proof is None or proof.signer is not signer or proof.sealed != sealed:
        version = headers[FORMAT]
        statement = _statement(version, trust.mesh, sealed.subject, sealed.message_id, sealed.payload)
        if not signer.verifies(_signature(headers), statement):
            raise BadSignature(signer.id)
        proof = Proof(sealed, signer, statement, _by=_UNSEALED)
    event = wire.decode(sealed.subject, sealed.payload)
    if event.mesh != trust.mesh:
        raise ForeignMesh(event.mesh)
    _check_entitled(event, signer)
    _check_allowed(event, signer)
    if event.incarnation > time_ms + AHEAD_MAX_MS:
        raise AheadOfTime(event.node, event.incarnation)
    token = hashlib.sha256(proof.statement).hexdigest()
    return (VerifiedEvent(event, proof, token, _by=_UNSEALED),)


def _statement(version: str, mesh: str, subject: str, message_id: str, payload: bytes) -> bytes:
    """Returns what is signed: no two different events have the same statement."""
    try:
        where = _framed(_DOMAIN, version, mesh)
        about, name = subject.encode(), message_id.encode()
    except UnicodeEncodeError:
        raise MalformedEvent("headers", "are not UTF-8") from None
    return b"%b%d:%b\n%d:%b\n%b" % (where, len(about), about, len(name), name, payload)


@lru_cache(maxsize=16)
def _framed(*parts: str) -> bytes:
    return b"".join(b"%d:%b\n" % (len(part), part) for part in map(str.encode, parts))


def _believed(headers: Mapping[str, str], trust: Trust, time_ms: int, position: int) -> Signer:
    """Returns the signer, if its certificate was admitted, and it and its CA held at the event's time."""
    name = headers.get(SIGNER, "")
    signer = trust.signer(name)
    if signer is None:
        raise UntrustedIssuer(name, "its certificate is not known")
    if time_ms < signer.not_before_ms - _TOLERANCE_MS or time_ms > signer.not_after_ms:
        raise CertificateNotHeld(signer.id)
    if not trust.holds(signer.root, position):
        raise UntrustedIssuer(name, "the CA that issued its certificate was replaced before the event")
    return signer


def _signature(headers: Mapping[str, str]) -> bytes:
    text = headers[SIGNATURE]
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvent(SIGNATURE, "is not base64") from None
    if base64.b64encode(signature).decode() != text:
        raise MalformedEvent(SIGNATURE, "is not base64 in its one canonical form")
    return signature


def _check_entitled(event: Event, signer: Signer) -> None:
    """Checks that the signer may state this: a node for itself, a witness, an operator."""
    kind: SignerKind
    match event:
        case NodeLost() | InstanceExpired():
            kind, author = "node", event.witness
        case InstanceEvicted() | CertificatesRevoked() | RootsRotated():
            kind, author = "operator", event.operator
        case _:
            kind, author = "node", event.node
            if event.incarnation == 0:
                raise SignerNotEntitled(signer.id, "incarnation 0 is kept for nodes that do not sign")
    if signer.kind != kind or signer.name != author:
        raise SignerNotEntitled(signer.id, f"may not speak as {kind} {author}")


def _check_allowed(event: Event, signer: Signer) -> None:
    """Checks that the signer's certificate allows every service name that it states."""
    if not signer.allow:
        return
    names: Iterable[str] = ()
    if isinstance(event, Stated):
        names = (event.service,)
    elif isinstance(event, NodeAnnounced):
        names = (*event.services_running, *(line.name for line in event.instances or ()))
    for name in names:
        if not allows(signer.allow, name):
            raise ServiceNotAllowed(signer.id, name[:63], signer.allow)
