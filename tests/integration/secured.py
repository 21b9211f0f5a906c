"""A secured nats-server for tests: a CA, its members' files, who may log in, and connections as each."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from log_support import DEADLINE_S

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.names import MESH_API, inbox_prefix, server_name_of, spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.pki.authority import Authority
from pmoves_mesh.pki.files import write_certificate, write_key
from pmoves_mesh.pki.templates import CertificateRequest
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.process import EmbeddedServer, Secured

CLOCK = SystemClock()


def pin(certificate: x509.Certificate) -> str:
    """Returns SHA-256 of a certificate's public key, as a server pins it."""
    key = certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass
class Party:
    """A member: its name, and its files."""

    mesh: str
    kind: SignerKind
    name: str
    directory: Path
    certificates: list[x509.Certificate] = field(default_factory=list)

    @property
    def id(self) -> str:
        return spiffe_id(self.mesh, self.kind, self.name)

    @property
    def certificate(self) -> Path:
        return self.directory / f"{self.kind}-{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.directory / f"{self.kind}-{self.name}.key"

    def member(self) -> Member:
        pins = tuple(pin(certificate) for certificate in self.certificates)
        return Member(identity=self.id, kind=self.kind, name=self.name, pins=pins)


class SecuredMesh:
    """A mesh's CA and members; the first node owns the mesh's stream."""

    def __init__(self, directory: Path, mesh: str = "pmoves-mesh") -> None:
        self.mesh = mesh
        self.directory = directory / mesh
        self.directory.mkdir(parents=True)
        self.authority = Authority.create(mesh, CLOCK.now_ms())
        self.roots = self.directory / "ca.crt"
        write_certificate(self.roots, self.authority.certificate)
        self.parties: dict[str, Party] = {}
        self.owner = self.party("main")

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.authority.certificate.public_bytes(Encoding.DER)).hexdigest()

    def party(self, name: str, kind: SignerKind = "node") -> Party:
        """Returns a new member, with a certificate."""
        party = Party(self.mesh, kind, name, self.directory)
        self.certify(party)
        self.parties[party.id] = party
        return party

    def certify(self, party: Party, *, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        """Gives a member a certificate, for a new key unless one is given."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        request = CertificateRequest(
            kind=party.kind,
            name=party.name,
            public_key=key.public_key(),
            dns_names=("localhost", server_name_of(self.mesh)),
            ip_addresses=(ip_address("127.0.0.1"),),
        )
        certificate = self.authority.issue(request, CLOCK.now_ms())
        party.certificates.append(certificate)
        write_certificate(party.certificate, certificate)
        write_key(party.key, key)

    def access(self, *parties: Party, **fields: Any) -> Access:
        """Returns who may log in: all members, or those named."""
        members = parties or tuple(self.parties.values())
        return Access(
            mesh=self.mesh,
            owner=self.owner.id,
            anchor_pem=self.roots.read_text(),
            members=tuple(party.member() for party in members),
            **fields,
        )

    def guest_access(self, *parties: Party) -> Access:
        """Returns who may log in to a mesh whose server is another's."""
        owner = self.owner
        return self.access(*parties, certificate=str(owner.certificate), key=str(owner.key))

    def server(self, port: int, access: Access | None = None, host: str = "127.0.0.1") -> EmbeddedServer:
        secured = Secured(
            host=host,
            mesh=self.mesh,
            certificate=self.owner.certificate,
            key=self.owner.key,
            access=access,
        )
        return EmbeddedServer(locate(os.environ), self.directory / "data", port, CLOCK, secured)

    def settings(self, party: Party, port: int, **changed: Any) -> NatsSettings:
        fields: dict[str, Any] = {
            "servers": (f"tls://127.0.0.1:{port}",),
            "name": party.id,
            "tls_ca": self.roots,
            "tls_cert": party.certificate,
            "tls_key": party.key,
            "tls_server": self.mesh,
            "inbox_prefix": inbox_prefix(party.kind, party.name),
            "api_prefix": MESH_API,
        }
        if party.kind == "service":
            fields["inbox_prefix"] = "_INBOX"
        return NatsSettings(**{**fields, **changed})

    @contextlib.asynccontextmanager
    async def connected(self, party: Party, port: int, **changed: Any) -> AsyncIterator[Connection]:
        async with Connection(self.settings(party, port, **changed)) as connection:
            await connection.wait_connected(DEADLINE_S)
            yield connection


@contextlib.asynccontextmanager
async def running(server: EmbeddedServer) -> AsyncIterator[EmbeddedServer]:
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
