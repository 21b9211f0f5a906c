"""What a certificate of the mesh says: the CA's root, and the X.509-SVID of an identity.

Pure: a template is a certificate that only lacks its signature. Who may have one is the
authority's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pmoves_mesh.core.limits import attributes
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.trust import SignerKind

NODE_LIFETIME_S: Final = 30 * 86400
"""How long a node's certificate holds; it is renewed at two thirds of that."""

BACKDATE_S: Final = 3600
"""How far a certificate begins in the past, so that hosts whose clock is behind accept it."""


@dataclass(frozen=True, kw_only=True)
class CertificateRequest:
    """Who wants a certificate, for which names, and for how long.

    Attributes:
        name: the last part of the SPIFFE ID, one DNS label.
        dns_names: host names under which it is reached.
        ip_addresses: addresses at which it is reached.
        public_key: ECDSA P-256.
        allow: patterns of the service names that it may state; none allow every name.
        lifetime_s: seconds from now until it ends.
        backdate_s: seconds that it begins before now; None is an hour, or a tenth of its life.
    """

    kind: SignerKind
    name: str
    public_key: ec.EllipticCurvePublicKey
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    allow: tuple[str, ...] = ()
    lifetime_s: int = NODE_LIFETIME_S
    backdate_s: int | None = None

    @property
    def begins_before_s(self) -> int:
        """How many seconds before now the certificate begins."""
        usual = min(BACKDATE_S, self.lifetime_s // 10)
        return usual if self.backdate_s is None else self.backdate_s


def root_template(
    mesh: str, public_key: ec.EllipticCurvePublicKey, serial: int, begin_ms: int, end_ms: int
) -> x509.CertificateBuilder:
    """Returns the certificate of a mesh's CA: it signs certificates and nothing else, one level deep.

    Source: RFC 5280 section 4.2.1; SPIFFE X.509-SVID section 4 (a signing certificate).
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{mesh[:56]} mesh CA")])
    return (
        x509.CertificateBuilder(subject_name=name, issuer_name=name)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_moment(begin_ms))
        .not_valid_after(_moment(end_ms))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(trust_domain_id(mesh))]),
            critical=False,
        )
    )


def identity_template(
    mesh: str, issuer: x509.Certificate, request: CertificateRequest, serial: int, now_ms: int
) -> x509.CertificateBuilder:
    """Returns the X.509-SVID that `request` asks for; it never outlasts its issuer, nor begins before it.

    Source: SPIFFE X.509-SVID sections 2 to 4; RFC 5280 section 4.2.1.
    """
    begin = max(_moment(now_ms - request.begins_before_s * 1000), issuer.not_valid_before_utc)
    end = min(_moment(now_ms + request.lifetime_s * 1000), issuer.not_valid_after_utc)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id(mesh, request.kind, request.name)),
        *(x509.DNSName(name) for name in request.dns_names),
        *(x509.IPAddress(address) for address in request.ip_addresses),
    ]
    issuer_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return (
        x509.CertificateBuilder(
            subject_name=x509.Name(
                [x509.NameAttribute(NameOID.COMMON_NAME, request.name), *attributes(request.allow)]
            ),
            issuer_name=issuer.subject,
        )
        .public_key(request.public_key)
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False
        )
    )


def trust_domain_id(mesh: str) -> str:
    """Returns the SPIFFE ID of a whole mesh, which its CA bears.

    Source: SPIFFE-ID section 2.
    """
    return f"spiffe://{mesh}"


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Returns the usage of a CA's key, or of an identity's: one never does the other's work."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(time_ms: int) -> datetime:
    """Returns a time as certificates hold it: in whole seconds."""
    return datetime.fromtimestamp(time_ms // 1000, UTC)
