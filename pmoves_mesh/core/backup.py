"""Backups: a mesh's whole registry as one signed file of lines, each of which can be named if it was changed.

The first line tells of what mesh and moment it is, then comes a line for each certificate and for
each record, as the bucket has it. The last one holds the digest of every other, and one signature
over all of these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.trust import Signer, Trust
from pmoves_mesh.errors import MalformedEvent, UntrustedIssuer

FORMAT: Final = "pmoves-mesh snapshot 1"

T = TypeVar("T", bound=Struct)


class Header(Struct, frozen=True, kw_only=True):
    """Of what the file is.

    Attributes:
        made: when, RFC 3339.
        position: up to which position of the stream it is whole.
        stream: which stream that was.
        roots: the CA certificates that held, PEM, the issuing one first.
    """

    mesh: str
    made: str
    position: int
    stream: str
    roots: tuple[str, ...]
    format: str = FORMAT


class Backup(Struct, frozen=True, kw_only=True):
    """What a file holds, once it is known who signed it, and that nothing was changed since.

    Attributes:
        header: of what it is.
        signer: who made the file.
        certificates: DER, by fingerprint.
        records: of the registry bucket, by key; nothing but themselves proves them.
    """

    header: Header
    signer: Signer
    certificates: Mapping[str, bytes]
    records: Mapping[str, Record]


class _Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    identity: str = ""
    certificate: bytes = b""
    key: str = ""
    record: Record | None = None


class _Seal(Struct, frozen=True, kw_only=True):
    signer: str
    certificate: bytes
    digests: tuple[str, ...]
    signature: str


def pack(
    header: Header,
    certificates: Mapping[str, bytes],
    records: Mapping[str, Record],
    identity: SigningIdentity,
    certificate_der: bytes,
) -> bytes:
    """Returns the file.

    Args:
        header: of what it is.
        certificates: DER, by fingerprint.
        records: the registry's, by key.
        identity: who signs.
        certificate_der: that identity's certificate.
    """
    lines = [
        header,
        *(_Line(identity=name, certificate=der) for name, der in sorted(certificates.items())),
        *(_Line(key=key, record=record) for key, record in sorted(records.items())),
    ]
    encoded = [msgspec.json.encode(line) for line in lines]
    digests = tuple(hashlib.sha256(line).hexdigest() for line in encoded)
    signature = base64.b64encode(identity.sign(_statement(digests))).decode()
    seal = _Seal(
        signer=identity.fingerprint, certificate=certificate_der, digests=digests, signature=signature
    )
    return b"\n".join([*encoded, msgspec.json.encode(seal), b""])


def unpack(data: bytes, trust: Trust) -> Backup:
    """Returns what a file holds, if a node or operator of this mesh signed it as it is.

    Args:
        data: the file.
        trust: whose CA the signer's certificate has to chain to; it is admitted.

    Raises:
        MalformedEvent: if it is no such file, or was changed; names the line.
    """
    *lines, last = data.removesuffix(b"\n").split(b"\n")
    seal = _decoded(last, _Seal, "the last line")
    signer = _signer(seal, trust)
    if len(lines) != len(seal.digests) or not lines:
        raise MalformedEvent("lines", f"{len(lines)}, but {len(seal.digests)} were signed")
    for number, (line, digest) in enumerate(zip(lines, seal.digests, strict=True), 1):
        if hashlib.sha256(line).hexdigest() != digest:
            raise MalformedEvent(_name(number, line), "was changed since the file was made")
    header = _decoded(lines[0], Header, "line 1")
    if header.format != FORMAT or header.mesh != trust.mesh:
        raise MalformedEvent("line 1", f"{header.format[:64]!r} of mesh {header.mesh[:63]!r}")
    return _backup(header, signer, [_decoded(line, _Line, "a line") for line in lines[1:]])


def _signer(seal: _Seal, trust: Trust) -> Signer:
    try:
        signer = trust.admit(seal.certificate)
        signature = base64.b64decode(seal.signature, validate=True)
    except (UntrustedIssuer, binascii.Error, ValueError) as error:
        raise MalformedEvent("the last line", f"nobody of this mesh signed it ({error})") from None
    if signer.fingerprint != seal.signer or not signer.verifies(signature, _statement(seal.digests)):
        raise MalformedEvent("the last line", f"the signature of {signer.id} does not match")
    if signer.kind == "service":
        raise MalformedEvent("the last line", f"{signer.id} may not sign a snapshot")
    return signer


def _backup(header: Header, signer: Signer, lines: Sequence[_Line]) -> Backup:
    return Backup(
        header=header,
        signer=signer,
        certificates={line.identity: line.certificate for line in lines if line.identity},
        records={line.key: line.record for line in lines if line.record is not None},
    )


def _statement(digests: Sequence[str]) -> bytes:
    return "\n".join([FORMAT, *digests]).encode()


def _name(number: int, line: bytes) -> str:
    """Returns how a person finds a line: by what it says it is, if it still says so."""
    try:
        said = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = _Line()
    if said.key:
        return f"line {number}, record {said.key[:200]}"
    return f"line {number}, certificate {said.identity[:64]}" if said.identity else f"line {number}"


def _decoded(line: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(name, str(error)[:200]) from None
