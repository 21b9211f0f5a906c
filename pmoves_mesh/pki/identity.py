"""An identity: a certificate of the mesh together with its private key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.core.trust import Signer, SignerKind, Trust
from pmoves_mesh.errors import PkiError, UntrustedIssuer
from pmoves_mesh.pki.requests import key_id, make_request

Names = tuple[Sequence[str], Sequence[IPv4Address | IPv6Address]]
"""Host names, and addresses."""

_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


class Identity:
    """Who somebody is, and what it signs with; implements `SigningIdentity`.

    Attributes:
        id: the SPIFFE ID.
        kind: what it is for.
        name: the last part of the SPIFFE ID.
        key_id: SHA-256 of the public key, which a renewal keeps.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        root: fingerprint of the CA certificate that it chains to.
        allow: patterns of the service names that it may state; none allow every name.
        certificate_der: the certificate as others are given it.
        not_after_ms: when the certificate ends, unix milliseconds.
        renew_after_ms: when two thirds of its time are over, unix milliseconds.
    """

    def __init__(
        self, signer: Signer, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self.certificate: Final = certificate
        self.certificate_der: Final = certificate.public_bytes(Encoding.DER)
        self.key: Final = key
        self.id: Final = signer.id
        self.kind: Final = signer.kind
        self.name: Final = signer.name
        self.key_id: Final = key_id(signer.public_key)
        self.fingerprint: Final = signer.fingerprint
        self.root: Final = signer.root
        self.allow: Final = signer.allow
        self.not_after_ms: Final = signer.not_after_ms
        self.renew_after_ms: Final = (
            signer.not_before_ms + (signer.not_after_ms - signer.not_before_ms) * 2 // 3
        )

    def sign(self, statement: bytes) -> bytes:
        """Returns the ECDSA P-256 signature of SHA-256 of `statement`, DER-encoded.

        Source: FIPS 186-5.
        """
        return self.key.sign(statement, _ALGORITHM)

    def covers(self, dns_names: Iterable[str], addresses: Iterable[IPv4Address | IPv6Address]) -> bool:
        """Returns whether the certificate bears all these names and addresses."""
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(dns_names) <= set(names.get_values_for_type(x509.DNSName)) and set(addresses) <= set(
            names.get_values_for_type(x509.IPAddress)
        )


def verified_identity(
    mesh: str,
    name: str | None,
    roots: Sequence[x509.Certificate],
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    kind: SignerKind = "node",
) -> Identity:
    """Returns an identity, once it is known that the mesh believes it. It may have expired.

    Args:
        mesh: the trust domain.
        name: whose it has to be; None for whosever it is.
        roots: the CA certificates that hold.
        certificate: the certificate.
        key: its private key.
        kind: what it has to be for.

    Raises:
        PkiError: if the certificate is another's, does not chain to a root, or has another key.
    """
    identity = identity_of(Trust(mesh, roots), certificate, key)
    if identity.kind != kind or name not in {identity.name, None}:
        raise PkiError(f"the certificate is that of {identity.id}")
    return identity


def identity_of(trust: Trust, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Identity:
    """Returns whosever identity it is, once it is known that the mesh believes it. It may have expired.

    Raises:
        PkiError: if the certificate does not chain to a root, or has another key.
    """
    if certificate.public_key() != key.public_key():
        raise PkiError("the key does not belong to the certificate")
    try:
        signer = trust.admit(certificate.public_bytes(Encoding.DER))
    except UntrustedIssuer as error:
        raise PkiError(str(error)) from None
    return Identity(signer, certificate, key)


def renewal_request(
    mesh: str,
    identity: Identity,
    dns_names: Sequence[str] = (),
    addresses: Sequence[IPv4Address | IPv6Address] = (),
) -> str:
    """Returns the request (PEM) for a new certificate in the place of an identity's.

    It has the same key and the same names, and those that are given beside them.
    """
    names = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    held = names.get_values_for_type(x509.IPAddress)
    borne = [address for address in held if isinstance(address, IPv4Address | IPv6Address)]
    return make_request(
        mesh,
        identity.kind,
        identity.name,
        identity.key,
        tuple(dict.fromkeys((*names.get_values_for_type(x509.DNSName), *dns_names))),
        tuple(dict.fromkeys((*borne, *addresses))),
    )
