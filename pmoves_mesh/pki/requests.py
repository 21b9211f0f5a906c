"""Certificate signing requests: only these travel, never a key.

A request is signed with the key that it is for, so whoever sends it holds that key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, get_args

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pmoves_mesh.core.names import parse_label, shown, spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import CertificateRequestRejected, InvalidFieldError
from pmoves_mesh.pki.authority import NAMES_MAX, check_host_name

REQUEST_LENGTH_MAX: Final = 16 * 1024

_KINDS: Final[tuple[SignerKind, ...]] = get_args(SignerKind)
_NAMES: Final = (x509.UniformResourceIdentifier, x509.DNSName, x509.IPAddress)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, kw_only=True)
class RequestedIdentity:
    """Who somebody asks to be, and with which key.

    Attributes:
        name: the last part of the SPIFFE ID, one DNS label.
        dns_names: host names under which it says that it is reached.
        ip_addresses: addresses at which it says that it is reached.
        public_key: ECDSA P-256; that the sender holds the private one is proven.
        key_id: see `key_id`.
    """

    kind: SignerKind
    name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPv4Address | IPv6Address, ...]
    public_key: ec.EllipticCurvePublicKey
    key_id: str


def key_id(public_key: CertificatePublicKeyTypes) -> str:
    """Returns the SHA-256 of a public key (DER SubjectPublicKeyInfo), in lower-case hex.

    A nats-server calls it a pinned certificate; it stays when a certificate is renewed with its key.

    Source: RFC 5280 section 4.1.2.7.
    """
    return hashlib.sha256(
        public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def make_request(
    mesh: str,
    kind: SignerKind,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    dns_names: tuple[str, ...] = (),
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = (),
) -> str:
    """Returns a certificate signing request, PEM.

    Args:
        mesh: the trust domain.
        kind: what the identity is for.
        name: the last part of the SPIFFE ID.
        key: ECDSA P-256; it stays here.
        dns_names: host names under which the holder is reached.
        ip_addresses: addresses at which the holder is reached.

    Source: RFC 2986; SPIFFE X.509-SVID section 2.
    """
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id(mesh, kind, name)),
        *(x509.DNSName(host) for host in dns_names),
        *(x509.IPAddress(address) for address in ip_addresses),
    ]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(Encoding.PEM).decode()


def read_request(pem: str, mesh: str) -> RequestedIdentity:
    """Returns what a certificate signing request asks for. Whether it is granted is another matter.

    Raises:
        CertificateRequestRejected: if it cannot be read, is not signed with its own ECDSA P-256 key,
            does not name exactly one identity of `mesh`, or is out of bounds.
    """
    if len(pem) > REQUEST_LENGTH_MAX:
        raise CertificateRequestRejected(f"a request has at most {REQUEST_LENGTH_MAX} characters")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise CertificateRequestRejected("the key is not ECDSA P-256")
        if not request.is_signature_valid:
            raise CertificateRequestRejected("the request is not signed with its own key")
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CertificateRequestRejected("the request names no identity") from None
    except _UNREADABLE:
        raise CertificateRequestRejected("this is no certificate signing request in PEM") from None
    kind, name = _identity(names, mesh)
    return RequestedIdentity(
        kind=kind,
        name=name,
        dns_names=tuple(dict.fromkeys(names.get_values_for_type(x509.DNSName))),
        ip_addresses=_addresses(names),
        public_key=key,
        key_id=key_id(key),
    )


def _identity(names: x509.SubjectAlternativeName, mesh: str) -> tuple[SignerKind, str]:
    if len(names) > NAMES_MAX + 1:
        raise CertificateRequestRejected(f"at most {NAMES_MAX} names and addresses")
    if not all(isinstance(name, _NAMES) for name in names):
        raise CertificateRequestRejected("names are an identity, host names and addresses, and nothing else")
    for host in names.get_values_for_type(x509.DNSName):
        check_host_name(host)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise CertificateRequestRejected(f"the request has {len(uris)} URI names, an X.509-SVID has one")
    for kind in _KINDS:
        prefix = spiffe_id(mesh, kind, "")
        name = uris[0].removeprefix(prefix)
        if name != uris[0] and _is_label(name):
            return kind, name
    raise CertificateRequestRejected(f"{shown(uris[0])} is no identity of mesh {mesh}")


def _is_label(name: str) -> bool:
    try:
        return parse_label(name, "name") == name
    except InvalidFieldError:
        return False


def _addresses(names: x509.SubjectAlternativeName) -> tuple[IPv4Address | IPv6Address, ...]:
    found = dict.fromkeys(names.get_values_for_type(x509.IPAddress))
    if not all(isinstance(address, IPv4Address | IPv6Address) for address in found):
        raise CertificateRequestRejected("an address is one address, not a network")
    return tuple(address for address in found if isinstance(address, IPv4Address | IPv6Address))
