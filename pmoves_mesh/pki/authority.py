"""The certificate authority of one mesh: it checks what is asked for, and signs."""

from __future__ import annotations

import re
from typing import Final, Self, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.core.limits import parse_patterns
from pmoves_mesh.core.names import parse_label, shown
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import CertificateExpired, CertificateRequestRejected, InvalidFieldError, PkiError
from pmoves_mesh.pki import templates
from pmoves_mesh.pki.templates import CertificateRequest

CA_LIFETIME_S: Final = 10 * 365 * 86400
LIFETIME_MAX_S: Final = 398 * 86400
BACKDATE_MAX_S: Final = 86400
NAMES_MAX: Final = 64

_KINDS: Final = get_args(SignerKind)
_DNS_NAME: Final = re.compile(r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?\Z")


class Authority:
    """A CA certificate and its private key."""

    def __init__(self, mesh: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Takes a CA as it is.

        Raises:
            PkiError: if the key is not the certificate's, or the CA is another mesh's.
        """
        if certificate.public_key() != key.public_key():
            raise PkiError("the CA's key does not belong to the CA's certificate")
        check_authority_of(mesh, certificate)
        self.mesh: Final = mesh
        self.certificate: Final = certificate
        self.key: Final = key

    @classmethod
    def create(cls, mesh: str, now_ms: int, key: ec.EllipticCurvePrivateKey | None = None) -> Self:
        """Returns a new CA for `mesh`, good for 10 years, with a new key unless one is given.

        Args:
            mesh: the trust domain.
            now_ms: unix milliseconds.
            key: ECDSA P-256; kept when a CA's certificate is to be made again.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        template = templates.root_template(
            mesh,
            key.public_key(),
            x509.random_serial_number(),
            now_ms - templates.BACKDATE_S * 1000,
            now_ms + CA_LIFETIME_S * 1000,
        )
        return cls(mesh, template.sign(key, hashes.SHA256()), key)

    @property
    def not_after_ms(self) -> int:
        """When the CA's certificate ends, unix milliseconds."""
        return int(self.certificate.not_valid_after_utc.timestamp() * 1000)

    def issue(self, request: CertificateRequest, now_ms: int) -> x509.Certificate:
        """Returns the certificate that `request` asks for.

        Raises:
            CertificateRequestRejected: if the request is out of bounds, or the CA does not hold yet.
            CertificateExpired: if the CA has expired.
        """
        _check(request)
        begin_ms = int(self.certificate.not_valid_before_utc.timestamp() * 1000)
        if now_ms < begin_ms:
            begin = self.certificate.not_valid_before_utc.isoformat()
            raise CertificateRequestRejected(f"the mesh's CA holds only from {begin}: set this host's clock")
        if now_ms >= self.not_after_ms:
            raise CertificateExpired("the mesh's CA", self.certificate.not_valid_after_utc.isoformat())
        serial = x509.random_serial_number()
        template = templates.identity_template(self.mesh, self.certificate, request, serial, now_ms)
        return template.sign(self.key, hashes.SHA256())


def check_authority_of(mesh: str, certificate: x509.Certificate) -> None:
    """Checks that a certificate is a CA's, and not another mesh's. One that names no mesh passes.

    Raises:
        PkiError: if it is not.
    """
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        raise PkiError("the CA's certificate is not one that can sign") from None
    if not constraints.ca:
        raise PkiError("the CA's certificate is not one that can sign")
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris and uris != [templates.trust_domain_id(mesh)]:
        raise PkiError(f"the CA is that of {uris[0][:80]}, not of mesh {mesh}")


def _check(request: CertificateRequest) -> None:
    """Checks that a request is within the bounds of what this CA signs."""
    if request.kind not in _KINDS:
        raise CertificateRequestRejected(f"kind {request.kind!r} is none of {', '.join(_KINDS)}")
    if not isinstance(request.public_key.curve, ec.SECP256R1):
        raise CertificateRequestRejected("the key is not ECDSA P-256")
    if not 1 <= request.lifetime_s <= LIFETIME_MAX_S:
        raise CertificateRequestRejected(f"lifetime {request.lifetime_s} s is not 1 to {LIFETIME_MAX_S} s")
    if not 0 <= request.begins_before_s <= BACKDATE_MAX_S:
        raise CertificateRequestRejected(
            f"backdate {request.begins_before_s} s is not 0 to {BACKDATE_MAX_S} s"
        )
    if len(request.dns_names) + len(request.ip_addresses) > NAMES_MAX:
        raise CertificateRequestRejected(f"at most {NAMES_MAX} names and addresses")
    try:
        if parse_label(request.name, "name") != request.name:
            raise CertificateRequestRejected(f"name {request.name!r} is not in lower case")
        if parse_patterns(request.allow) != request.allow:
            raise CertificateRequestRejected("allow has a pattern twice, or not in lower case")
    except InvalidFieldError as error:
        raise CertificateRequestRejected(str(error)) from None
    for name in request.dns_names:
        check_host_name(name)


def check_host_name(name: str) -> None:
    """Checks that a certificate may bear a host name; wildcards are none.

    Raises:
        CertificateRequestRejected: if it may not.
    """
    if not _DNS_NAME.match(name):
        raise CertificateRequestRejected(f"{shown(name)} is not a host name")
