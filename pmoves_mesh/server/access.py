"""Who may log in to a nats-server that listens beyond loopback: a file per mesh, from the host of its CA."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.names import Label, spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import StartError

MEMBERS_MAX: Final = 4096

Pin = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]

_PEM: Final = re.compile(
    r"\A(\s*-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\s*)+\Z"
)


class Member(Struct, frozen=True, kw_only=True):
    """One identity that may log in.

    Attributes:
        identity: its SPIFFE ID, which is its user name too.
        pins: SHA-256 of the public keys (DER SubjectPublicKeyInfo), in hex, of its certificates that
            hold; without one it cannot log in.
    """

    identity: str
    kind: SignerKind
    name: Label
    pins: Annotated[tuple[Pin, ...], Meta(max_length=64)]


class Access(Struct, frozen=True, kw_only=True):
    """Who may log in to one mesh.

    Attributes:
        owner: SPIFFE ID of the node that makes the mesh's stream and buckets there: on whose host
            the server runs.
        anchor_pem: the mesh's CA certificates, PEM. The server trusts them for this mesh alone.
        members: in any order; the owner is one of them.
        certificate: path of the server certificate that this mesh's clients are shown when they ask
            for `names.server_name_of(mesh)`; empty to show them that of the server's own mesh.
        key: path of its private key.
    """

    mesh: Label
    owner: str
    anchor_pem: Annotated[str, Meta(max_length=65536)]
    members: Annotated[tuple[Member, ...], Meta(max_length=MEMBERS_MAX)]
    certificate: str = ""
    key: str = ""


def encode(access: Access) -> bytes:
    """Returns an access as JSON, the same for the same members in whatever order.

    Raises:
        StartError: if it is not sound, as in `decode`.
    """
    ordered = tuple(sorted(access.members, key=lambda member: member.identity))
    sound = msgspec.structs.replace(access, members=ordered)
    data = msgspec.json.format(msgspec.json.encode(sound))
    decode(data)
    return data


def decode(data: bytes) -> Access:
    """Returns an access that is sound: one mesh must not be able to spoil another's, nor name its members.

    Raises:
        StartError: if it is not JSON, a field is out of bounds, an identity is not of this mesh, or
            there are two of the same.
    """
    try:
        access = msgspec.json.decode(data, type=Access)
    except msgspec.MsgspecError as error:
        raise StartError(f"an access file is not usable: {error}") from None
    seen = set()
    for member in access.members:
        if member.identity != spiffe_id(access.mesh, member.kind, member.name):
            raise StartError(f"{member.identity[:200]!r} is no identity of mesh {access.mesh}")
        if member.identity in seen:
            raise StartError(f"{member.identity} is listed twice")
        seen.add(member.identity)
    if not _PEM.match(access.anchor_pem):
        raise StartError(f"mesh {access.mesh} comes without its CA certificate (PEM)")
    return access
