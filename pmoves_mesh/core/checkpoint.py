"""Checkpoints: snapshots of a registry that a node signed, so that its past need not be told from the start.

A node can sign only what it says of itself in the stream; in a checkpoint it speaks for all. So whoever reads
one is told who made it, and what an agent serves as the present never rests on one.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core import snapshot
from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Signer
from pmoves_mesh.errors import (
    BadSignature,
    CertificateNotHeld,
    ForeignMesh,
    MalformedEvent,
    SignerNotEntitled,
    UnsupportedVersion,
)

BYTES_MAX: Final = 64 * 2**20
"""How large one may be, and how large it may become when it is unpacked, times eight."""

_VERSION: Final = "1"
_DOMAIN: Final = "pmoves-mesh checkpoint"
_LEVEL: Final = 1
_UNPACKED_MAX: Final = 8 * BYTES_MAX


class Place(Struct, frozen=True, kw_only=True, order=True):
    """Of what a checkpoint is.

    Attributes:
        position: the last event that was folded in.
        time_ms: when the stream took that, unix milliseconds.
        stream_id: which incarnation of the stream.
    """

    position: int
    time_ms: int
    stream_id: str


class Sealed(Struct, frozen=True, kw_only=True):
    """A checkpoint as it is kept.

    Attributes:
        signer: fingerprint of the certificate whose key signed it.
        signature: over everything else.
        registry: the snapshot, packed.
    """

    version: str
    mesh: str
    place: Place
    signer: str
    signature: bytes
    registry: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Sealed)


def seal(registry: Registry, mesh: str, place: Place, identity: SigningIdentity) -> bytes:
    """Returns a registry as a checkpoint that `identity` signed."""
    packed = zlib.compress(snapshot.dump(registry, mesh), _LEVEL)
    signature = identity.sign(_statement(mesh, place, packed))
    return _ENCODER.encode(
        Sealed(
            version=_VERSION,
            mesh=mesh,
            place=place,
            signer=identity.fingerprint,
            signature=signature,
            registry=packed,
        )
    )


def read(data: bytes, mesh: str, place: Place) -> Sealed:
    """Returns what is kept as the checkpoint of a place, of which nobody knows yet who made it.

    Raises:
        RemoteProtocolError: one of its subclasses, if it is none, or that of something else.
    """
    if len(data) > BYTES_MAX:
        raise MalformedEvent("checkpoint", f"{len(data)} bytes, at most {BYTES_MAX}")
    try:
        sealed = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("checkpoint", str(error)) from None
    if sealed.version != _VERSION:
        raise UnsupportedVersion(sealed.version, _VERSION)
    if sealed.mesh != mesh:
        raise ForeignMesh(sealed.mesh)
    if sealed.place != place:
        raise MalformedEvent("checkpoint", f"of position {sealed.place.position}, kept as {place.position}")
    return sealed


def unseal(sealed: Sealed, signer: Signer) -> Registry:
    """Returns the registry of a checkpoint, if `signer` made it.

    Args:
        sealed: from `read`.
        signer: whose certificate it names; that it was not revoked was seen already.

    Raises:
        RemoteProtocolError: one of its subclasses, if it must not be believed.
    """
    if signer.kind != "node":
        raise SignerNotEntitled(signer.id, "may not make a checkpoint: only nodes do")
    if sealed.place.time_ms > signer.not_after_ms:
        raise CertificateNotHeld(signer.id)
    if not signer.verifies(sealed.signature, _statement(sealed.mesh, sealed.place, sealed.registry)):
        raise BadSignature(signer.id)
    registry = snapshot.load(_unpacked(sealed.registry), sealed.mesh)
    if registry.position != sealed.place.position:
        raise MalformedEvent("checkpoint", f"holds a registry of position {registry.position}")
    return registry


def _statement(mesh: str, place: Place, packed: bytes) -> bytes:
    """Returns what is signed: no two different checkpoints have the same, and no event has it."""
    parts = (_DOMAIN, _VERSION, mesh, place.stream_id, str(place.position), str(place.time_ms))
    return b"".join(b"%d:%s\n" % (len(part), part) for part in map(str.encode, parts)) + packed


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(packed, _UNPACKED_MAX)
    except zlib.error as error:
        raise MalformedEvent("checkpoint", str(error)) from None
    if not unpacking.eof:
        raise MalformedEvent("checkpoint", "is cut off, or larger than it may be")
    return data
