"""Certificates as files, for tests of TLS: they hold at the present time, as OpenSSL asks of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import limits
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.pki import files
from pmoves_mesh.pki.authority import Authority

MESH: Final = "pmoves-mesh"
_DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True)
class IdentityFiles:
    """Where an identity's certificate and key are, and the roots that vouch for it."""

    certificate: Path
    key: Path
    roots: Path

    @property
    def fingerprint(self) -> str:
        return fingerprint(files.read_certificates(self.certificate)[0])

    @property
    def pem(self) -> str:
        return self.certificate.read_text()


class FileAuthority:
    """The CA of one mesh; it writes the identities that it issues into a directory."""

    def __init__(self, directory: Path, mesh: str = MESH) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.mesh = mesh
        self.directory = directory
        self.roots = directory / "ca.crt"
        self.authority = Authority.create(mesh, SystemClock().now_ms() - 3 * 86400 * 1000)
        files.write_certificate(self.roots, self.root)

    @property
    def root(self) -> x509.Certificate:
        return self.authority.certificate

    def identity(
        self,
        name: str,
        kind: str = "service",
        *,
        allow: tuple[str, ...] = (),
        ended: bool = False,
        uris: tuple[str, ...] | None = None,
    ) -> IdentityFiles:
        """Writes a new key and certificate, in place of those of the same name.

        ended: whether the certificate ended a day ago.
        uris: its URI names, where they are not to be one SPIFFE ID.
        """
        stem = self.directory / f"{kind}-{name}"
        found = IdentityFiles(stem.with_suffix(".crt"), stem.with_suffix(".key"), self.roots)
        key = ec.generate_private_key(ec.SECP256R1())
        names = (f"spiffe://{self.mesh}/{kind}/{name}",) if uris is None else uris
        files.write_key(found.key, key)
        files.write_certificate(found.certificate, self._issue(key, name, allow, ended=ended, uris=names))
        return found

    def _issue(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        allow: tuple[str, ...],
        *,
        ended: bool,
        uris: tuple[str, ...],
    ) -> x509.Certificate:
        now = dt.datetime.fromtimestamp(SystemClock().now_ms() // 1000, dt.UTC)
        subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name), *limits.attributes(allow)]
        names = [*map(x509.UniformResourceIdentifier, uris), x509.DNSName("elsewhere.example")]
        usages = [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
        issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.key.public_key())
        return (
            x509.CertificateBuilder(issuer_name=self.root.subject, subject_name=x509.Name(subject))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now - _DAY if ended else now + _DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(issuer_key_id, critical=False)
            .sign(self.authority.key, hashes.SHA256())
        )
