"""Leases: which run of a node's agent holds the node's name, and what a run does when it finds another's.

A bucket has one lease a node, signed by that node, since others may be able to write its key. The
rules know no clock, and trust no silence: who is dead shows only in that it does not answer.

- A run that begins, or finds a lease that it knows nothing of, writes its own *over* it, and names it.
- A run that finds its own name under a newcomer's lives, and was there first: it *refuses* the
  newcomer, by name, and goes on.
- A run that finds itself refused stops: the one that was there before it lives.

A run that was killed refuses nobody, so a node that is started again never stops for itself; nor
does any run for an old lease that somebody plays back, which cannot name it. Of runs that live at
once one remains, since all of them go by the one key, each by compare-and-set.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.load import Load
from pmoves_mesh.core.names import Counter, Host, Label
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import (
    BadSignature,
    CertificateNotHeld,
    MalformedEvent,
    SignerNotEntitled,
    UntrustedIssuer,
)

Holder = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
"""One run of an agent: random, so that nobody can name it before it has spoken."""

Verdict = Literal["keep", "take", "refuse", "stop"]

NAMED_MAX: Final = 8
"""How many runs a lease names at most as passed over, and as refused; the latest are kept."""

_VALUE_BYTES_MAX: Final = 4096
_DOMAIN: Final = b"pmoves-mesh lease 1"
_TOLERANCE_MS: Final = 5 * 60 * 1000

LOOKS_MAX: Final = 6
"""Of how many other nodes a lease says whether they are reached: it must not outgrow its value."""

_Named = Annotated[tuple[Holder, ...], Meta(max_length=NAMED_MAX)]


class Look(Struct, frozen=True, kw_only=True):
    """What came of trying to reach another node.

    Attributes:
        host: the address that it announced then.
        problem: why it is not reached there, in a few words; empty if it is.
    """

    host: Host
    problem: Annotated[str, Meta(max_length=100)] = ""


class Lease(Struct, frozen=True, kw_only=True):
    """What a run of a node's agent says of itself, for as long as it lives.

    Attributes:
        node: whose name is held.
        incarnation: of the run.
        holder: the run.
        over: the runs whose leases it found before its own, the latest first; they may be dead.
        refused: the runs that it told to stop, the latest first.
        host: where it runs.
        time_ms: when it wrote this, by its own clock, unix milliseconds; nothing is decided by it.
        connection: to the server, through which it writes: see `Connection.id`.
        load: how much of its host is in use; None where that is not known, as in leases of old.
        looks: what came of trying to reach other nodes, by their names.
    """

    node: Label
    incarnation: Counter
    holder: Holder
    over: _Named = ()
    refused: _Named = ()
    host: Host
    time_ms: Counter
    connection: Annotated[str, Meta(max_length=256)] = ""
    load: Load | None = None
    looks: Annotated[dict[Label, Look], Meta(max_length=LOOKS_MAX)] = {}


class Claim(Struct, frozen=True):
    """What a run knows of the others that have held its node's name; see `Lease`."""

    holder: str
    over: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class Decision(Struct, frozen=True):
    """What a run does about what it found.

    Attributes:
        verdict: `keep` the lease, `take` it from another, `refuse` a newcomer who took it, or `stop`.
        claim: what to write, by compare-and-set on what was found; nothing if it is to stop.
    """

    verdict: Verdict
    claim: Claim


def decide(mine: Claim, found: Lease | None) -> Decision:
    """Returns what to do about what a run found where its own lease should be.

    Args:
        mine: what this run claims.
        found: the lease that is there; None if there is none, or none to be believed.
    """
    if found is None or found.holder == mine.holder:
        return Decision("keep", mine)
    if mine.holder in found.refused:
        return Decision("stop", mine)
    if mine.holder in found.over:
        # Whoever the newcomer found on top of this run, or refused itself, is newer than this run too.
        newer = found.over[: found.over.index(mine.holder)]
        refused = _latest(found.holder, newer, found.refused, mine.refused)
        return Decision("refuse", msgspec.structs.replace(mine, refused=refused))
    over = _latest(found.holder, found.over, mine.over)
    return Decision("take", msgspec.structs.replace(mine, over=over))


class _Sealed(Struct, frozen=True):
    """The value of a key: the lease, byte for byte as it was signed, and who signed it."""

    signer: str
    signature: str
    lease: msgspec.Raw


_ENCODER: Final = msgspec.json.Encoder()
_SEALED: Final = msgspec.json.Decoder(_Sealed)
_LEASE: Final = msgspec.json.Decoder(Lease)


def seal(lease: Lease, mesh: str, identity: SigningIdentity) -> bytes:
    """Returns the value of the key of `lease.node` in mesh `mesh`, signed by `identity`."""
    payload = _ENCODER.encode(lease)
    signature = base64.b64encode(identity.sign(_statement(mesh, payload))).decode()
    return _ENCODER.encode(_Sealed(identity.fingerprint, signature, msgspec.Raw(payload)))


def signer_of(value: bytes) -> str:
    """Returns the fingerprint of the certificate that a value names as its signer's.

    Raises:
        MalformedEvent: if the value is no lease.
    """
    return _parts(value).signer


def connection_of(value: bytes) -> str:
    """Returns the connection that a value names, whoever wrote it; empty if it names none.

    Whoever may write a node's key may as well remove it, so there is nothing to be gained by a lie.
    """
    try:
        return _LEASE.decode(_parts(value).lease).connection
    except (MalformedEvent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def unseal(value: bytes, node: str, trust: Trust, now_ms: int) -> Lease:
    """Returns the lease that a value is, once it is known that `node` signed it for itself.

    Args:
        value: of the key.
        node: whose key it is.
        trust: the identities of this mesh; the signer's certificate must have been admitted.
        now_ms: unix milliseconds; a certificate that ended speaks for nobody.

    Raises:
        RemoteProtocolError: one of its subclasses, which says why it is not believed.
    """
    sealed = _parts(value)
    signer = trust.signer(sealed.signer)
    if signer is None:
        raise UntrustedIssuer(sealed.signer, "its certificate is not known")
    if not trust.holds(signer.root, 0):
        raise UntrustedIssuer(sealed.signer, "the CA that issued its certificate was replaced")
    if not signer.not_before_ms - _TOLERANCE_MS <= now_ms <= signer.not_after_ms + _TOLERANCE_MS:
        raise CertificateNotHeld(signer.id)
    payload = bytes(sealed.lease)
    if not signer.verifies(_signature(sealed.signature), _statement(trust.mesh, payload)):
        raise BadSignature(signer.id)
    try:
        lease = _LEASE.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("lease", str(error)) from None
    if (signer.kind, signer.name) != ("node", node) or lease.node != node:
        raise SignerNotEntitled(signer.id, f"may not hold the lease of node {node}")
    return lease


def _latest(holder: str, *named: Iterable[str]) -> tuple[str, ...]:
    """Returns the latest of those who are named, `holder` first, each once."""
    return tuple(dict.fromkeys((holder, *(one for some in named for one in some))))[:NAMED_MAX]


def _statement(mesh: str, payload: bytes) -> bytes:
    """Returns what is signed: the payload says whose lease it is, and no event begins like this."""
    name = mesh.encode()
    return b"%d:%s\n%d:%s\n%s" % (len(_DOMAIN), _DOMAIN, len(name), name, payload)


def _parts(value: bytes) -> _Sealed:
    if len(value) > _VALUE_BYTES_MAX:
        raise MalformedEvent("lease", f"{len(value)} bytes, at most {_VALUE_BYTES_MAX}")
    try:
        return _SEALED.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("lease", str(error)) from None


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvent("signature", "is not base64") from None
