"""Short calls for tests: a certificate authority, identities, events, and what is sealed of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pmoves_mesh.core import envelope
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.choice import Choice, best_first, matching
from pmoves_mesh.core.envelope import SealedEvent, VerifiedEvent
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    Event,
    InstanceDeregistered,
    InstanceEvicted,
    InstanceExpired,
    InstanceRegistered,
    NodeAnnounced,
    NodeLeft,
    NodeLost,
    RootsRotated,
)
from pmoves_mesh.core.load import Survey
from pmoves_mesh.core.model import Instance, ManifestEntry
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registry import InstanceEntry, Registry
from pmoves_mesh.core.trust import Trust, fingerprint

MESH: Final = "pmoves-mesh"
BEGIN: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END: Final = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
NOW_MS: Final = int(BEGIN.timestamp() * 1000) + 24 * 60 * 60 * 1000

_DAY: Final = dt.timedelta(days=1)
_Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """A key and the certificate that speaks for it: can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def sign(self, statement: bytes) -> bytes:
        return self.key.sign(statement, ec.ECDSA(hashes.SHA256()))


class Authority:
    """A certificate authority of one mesh, and every identity it issued, admitted to its trust."""

    def __init__(self, mesh: str = MESH) -> None:
        self.mesh = mesh
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{mesh} CA")])
        public = self.key.public_key()
        usage = {"key_cert_sign": True, "crl_sign": True}
        self.root = (
            _builder(name, name, public, BEGIN - _DAY, END + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self.trust = Trust(mesh, [self.root])

    def certificate(
        self,
        uris: Sequence[str],
        key: _Key,
        *,
        names: bool = True,
        begin: dt.datetime = BEGIN,
        end: dt.datetime = END,
    ) -> x509.Certificate:
        """Returns a certificate with these URI names; without any subject alternative name on request."""
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "identity")])
        builder = (
            _builder(self.root.subject, subject, key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
                ),
                critical=False,
            )
        )
        if names:
            general = [*map(x509.UniformResourceIdentifier, uris), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def identity(
        self,
        name: str,
        kind: str = "node",
        *,
        admit: bool = True,
        begin: dt.datetime = BEGIN,
        end: dt.datetime = END,
    ) -> Identity:
        """Issues an identity and admits it, so that what it signs can be verified."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate([f"spiffe://{self.mesh}/{kind}/{name}"], key, begin=begin, end=end)
        issued = Identity(certificate, key)
        if admit:
            self.trust.admit(issued.der)
        return issued

    def unseal(
        self, sealed: SealedEvent, *, position: int = 1, time_ms: int = NOW_MS, accept_unsigned: bool = False
    ) -> tuple[VerifiedEvent, ...]:
        return envelope.unseal(
            sealed, self.trust, time_ms=time_ms, position=position, accept_unsigned=accept_unsigned
        )

    def verified(self, event: Event, identity: Identity) -> VerifiedEvent:
        """Returns an event as it comes out of the stream: sealed by `identity`, then verified."""
        (one,) = self.unseal(envelope.seal(event, identity))
        return one


class Story:
    """A registry, and the nodes and operators that speak to it, one position after another."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.registry = Registry()
        self.position = 0
        self._identities: dict[tuple[str, str], Identity] = {}

    def identity(self, name: str, kind: str = "node") -> Identity:
        if (name, kind) not in self._identities:
            self._identities[name, kind] = self.authority.identity(name, kind)
        return self._identities[name, kind]

    def tell(self, *events: Event, position: int | None = None, time_ms: int = NOW_MS) -> Change:
        """Lets the rightful author of each event state it; returns what the last one changed."""
        change = Change(outcome="applied")
        for event in events:
            self.position += 1
            at = self.position if position is None else position
            verified = self.authority.verified(event, self.author(event))
            change = apply(self.registry, verified, position=at, time_ms=time_ms)
        return change

    def tell_unsigned(self, subject: str, payload: bytes, *, position: int | None = None) -> list[Change]:
        self.position += 1
        at = self.position if position is None else position
        sealed = SealedEvent(subject=subject, payload=payload)
        events = self.authority.unseal(sealed, position=at, accept_unsigned=True)
        return [apply(self.registry, one, position=at, time_ms=NOW_MS) for one in events]

    def author(self, event: Event) -> Identity:
        match event:
            case NodeLost() | InstanceExpired():
                return self.identity(event.witness)
            case InstanceEvicted() | CertificatesRevoked() | RootsRotated():
                return self.identity(event.operator, "operator")
            case _:
                return self.identity(event.node)

    def listed(self) -> set[tuple[str, str, str]]:
        """Returns the keys of the instances that readers see."""
        return {tuple(entry.key) for entry in self.registry.entries() if self.registry.is_listed(entry)}


def instance(name: str = "rag", node: str = "alpha", instance_id: str = "1", **fields: Any) -> Instance:
    return Instance(**{"name": name, "id": instance_id, "node": node, "host": f"{node}.example", **fields})


def about(kind: type[Any], revision: int, record: Instance | None = None, **fields: Any) -> Any:
    """Returns an owner's event of any kind about one instance."""
    data = instance() if record is None else record
    return kind(**_head(data.node, revision, fields), service=data.name, data=data)


def registered(revision: int, record: Instance | None = None, **fields: Any) -> InstanceRegistered:
    event: InstanceRegistered = about(InstanceRegistered, revision, record, **fields)
    return event


def deregistered(revision: int, record: Instance | None = None, **fields: Any) -> InstanceDeregistered:
    event: InstanceDeregistered = about(InstanceDeregistered, revision, record, **fields)
    return event


def announced(
    revision: int, lines: Sequence[ManifestEntry] | None = None, *, node: str = "alpha", **fields: Any
) -> NodeAnnounced:
    manifest = None if lines is None else tuple(lines)
    return NodeAnnounced(
        **{"host": f"{node}.example", "instances": manifest, **_head(node, revision, fields)}
    )


def line(revision: int, name: str = "rag", instance_id: str = "1", **fields: Any) -> ManifestEntry:
    return ManifestEntry(name=name, id=instance_id, revision=revision, **fields)


def left(revision: int, node: str = "alpha", **fields: Any) -> NodeLeft:
    return NodeLeft(**_head(node, revision, fields))


def lost(revision: int, node: str = "alpha", witness: str = "omega", **fields: Any) -> NodeLost:
    return NodeLost(**_head(node, revision, fields), witness=witness)


def expired(revision: int, record: Instance | None = None, **fields: Any) -> InstanceExpired:
    data = instance() if record is None else record
    head = _head(data.node, revision, fields)
    return InstanceExpired(**head, service=data.name, id=data.id, witness="omega")


def evicted(
    service: str = "rag", node: str = "alpha", instance_id: str | None = None, *, lifted: bool = False
) -> InstanceEvicted:
    head = _head(node, 1, {})
    return InstanceEvicted(**head, service=service, id=instance_id, operator="root", lifted=lifted)


def revoked(*fingerprints: str) -> CertificatesRevoked:
    return CertificatesRevoked(**_head("root", 1, {}), operator="root", fingerprints=fingerprints)


def rotated(*roots: str) -> RootsRotated:
    return RootsRotated(**_head("root", 1, {}), operator="root", roots=roots)


def discovered(
    registry: Registry, capabilities: tuple[str, ...] = (), *, node: str = "", **asked: Any
) -> list[InstanceEntry]:
    """Returns where a client of `node` that asks for this should go, the best first."""
    survey = asked.pop("survey", Survey())
    choice = Choice(capabilities=capabilities, **asked)
    found = matching(registry, registry.with_capabilities(capabilities), choice)
    return best_first(found, choice, node=node, survey=survey)


def _head(node: str, revision: int, fields: dict[str, Any]) -> dict[str, Any]:
    return {"mesh": MESH, "node": node, "incarnation": 1, "revision": revision, **fields}


def _builder(
    issuer: x509.Name, subject: x509.Name, key: Any, begin: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _key_usage(**used: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})
