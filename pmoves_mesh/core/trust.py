"""Whom the mesh believes: certificates that chain to its CA, and what each may state.

Admitting a certificate costs a chain verification; asking for an admitted one is a look-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from msgspec import Struct

from pmoves_mesh.core.limits import patterns_of
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import UntrustedIssuer

SignerKind = Literal["node", "service", "operator"]

_KINDS: Final[tuple[SignerKind, ...]] = ("node", "service", "operator")
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_NO_SVID: Final = (
    ValueError,
    VerificationError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def fingerprint(certificate: x509.Certificate) -> str:
    """Returns the SHA-256 of a certificate's DER form, in lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


class Signer(Struct, frozen=True, kw_only=True):
    """An identity whose certificate chains to the mesh's CA.

    Attributes:
        fingerprint: SHA-256 of the certificate (DER), in hex.
        name: the last part of its SPIFFE ID.
        root: fingerprint of the CA certificate that it chains to.
        allow: patterns of the service names that it may state; none allow every name.
        not_before_ms: unix milliseconds; events from before are not believed.
        not_after_ms: unix milliseconds; events from after are not believed.
    """

    mesh: str
    kind: SignerKind
    name: str
    fingerprint: str
    root: str
    allow: tuple[str, ...] = ()
    not_before_ms: int
    not_after_ms: int
    public_key: ec.EllipticCurvePublicKey

    @property
    def id(self) -> str:
        """The SPIFFE ID."""
        return spiffe_id(self.mesh, self.kind, self.name)

    def verifies(self, signature: bytes, statement: bytes) -> bool:
        """Returns whether this identity signed `statement`.

        Source: FIPS 186-5, ECDSA with P-256 and SHA-256.
        """
        try:
            self.public_key.verify(signature, statement, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


class Trust:
    """The roots of one mesh, and every certificate admitted under them.

    A root that was retired still vouches for what was signed under it before that.
    """

    def __init__(self, mesh: str, roots: Iterable[x509.Certificate]) -> None:
        self.mesh: Final = mesh
        self._roots: dict[str, x509.Certificate] = {fingerprint(root): root for root in roots}
        self._retired: dict[str, int] = {}
        self._store = Store(list(self._roots.values()))
        self._signers: dict[str, Signer] = {}
        self._certificates: dict[str, bytes] = {}

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The CA certificates that hold, the issuing one first."""
        return tuple(self._roots.values())

    @property
    def root_fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the CA certificates that hold, the issuing one's first."""
        return tuple(self._roots)

    @property
    def retired(self) -> Mapping[str, int]:
        """The position from which on each retired CA certificate holds no more, by fingerprint."""
        return self._retired

    def rotate(
        self, roots: Iterable[x509.Certificate], retired: Iterable[tuple[x509.Certificate, int]]
    ) -> None:
        """Takes the CA certificates that hold now, and those that no longer do, with their positions."""
        ended = list(retired)
        self._roots = {fingerprint(root): root for root in roots}
        self._retired = {fingerprint(root): position for root, position in ended}
        self._store = Store([*self._roots.values(), *(root for root, _ in ended)])

    def holds(self, root: str, position: int) -> bool:
        """Returns whether a CA certificate held at a position of the stream; 0 is now."""
        if root in self._roots:
            return True
        ended = self._retired.get(root)
        return ended is not None and 0 < position < ended

    def signer(self, certificate_fingerprint: str) -> Signer | None:
        """Returns an admitted identity, or None if its certificate was not admitted yet."""
        return self._signers.get(certificate_fingerprint)

    def certificate(self, certificate_fingerprint: str) -> bytes | None:
        """Returns an admitted certificate (DER), or None if it was not admitted yet."""
        return self._certificates.get(certificate_fingerprint)

    def admit(self, der: bytes) -> Signer:
        """Admits a certificate that chains to a root of this mesh, and returns its identity.

        The chain is verified as of the certificate's own beginning: whether it held when an
        event was made is asked of each event, against the signer's own bounds.

        Raises:
            UntrustedIssuer: if it does not chain, or is not an X.509-SVID of this mesh.

        Source: SPIFFE X.509-SVID sections 2 and 5; RFC 5280 section 6.
        """
        known = self._signers.get(hashlib.sha256(der).hexdigest())
        if known is not None:
            return known
        signer = self._verified(der)
        self._signers[signer.fingerprint] = signer
        self._certificates[signer.fingerprint] = der
        return signer

    def _verified(self, der: bytes) -> Signer:
        name = hashlib.sha256(der).hexdigest()
        try:
            certificate = x509.load_der_x509_certificate(der)
            begin = certificate.not_valid_before_utc
            verifier = PolicyBuilder().store(self._store).time(begin).build_client_verifier()
            root = verifier.verify(certificate, []).chain[-1]
            key = certificate.public_key()
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except _NO_SVID as error:
            raise UntrustedIssuer(
                name, f"its certificate does not chain to this mesh's CA ({error})"
            ) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UntrustedIssuer(name, "its key is not ECDSA P-256")
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise UntrustedIssuer(name, f"its certificate has {len(uris)} URI names, an X.509-SVID has one")
        kind, who = self._identity(name, uris[0])
        return Signer(
            mesh=self.mesh,
            kind=kind,
            name=who,
            fingerprint=name,
            root=fingerprint(root),
            allow=patterns_of(certificate),
            not_before_ms=_unix_ms(begin),
            not_after_ms=_unix_ms(certificate.not_valid_after_utc),
            public_key=key,
        )

    def _identity(self, certificate_fingerprint: str, uri: str) -> tuple[SignerKind, str]:
        for kind in _KINDS:
            prefix = spiffe_id(self.mesh, kind, "")
            if uri.startswith(prefix) and "/" not in uri[len(prefix) :] and len(uri) > len(prefix):
                return kind, uri[len(prefix) :]
        raise UntrustedIssuer(certificate_fingerprint, f"{uri[:200]!r} is no identity of mesh {self.mesh}")


def _unix_ms(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1000)
