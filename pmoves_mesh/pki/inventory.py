"""The inventory: every certificate that a host keeps, whose it is, and how soon it ends.

What is read here is for people and dashboards. It proves nothing: whether a certificate is
believed is asked of `core.trust`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from pmoves_mesh.errors import PkiError
from pmoves_mesh.pki.files import read_certificates

Severity = Literal["ok", "warning", "alarm"]

_DAY_MS: Final = 86_400_000
_WARNING_MS_MAX: Final = 180 * _DAY_MS
_ALARM_MS_MIN: Final = 3 * _DAY_MS
_ALARM_MS_MAX: Final = 30 * _DAY_MS
_FOLDERS: Final = ("services",)
_IDENTITY_FOLDERS: Final = ("identity", "leaf")
_UNREADABLE: Final = (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension)


class CertificateFact(Struct, frozen=True, kw_only=True):
    """A certificate that this host keeps.

    Attributes:
        kind: `ca`, the kind in its SPIFFE ID (`node`, `service`, `operator`), or `other`.
        name: the last part of its SPIFFE ID, a CA's trust domain, else its common name.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        not_before_ms: when it begins, unix milliseconds.
        not_after_ms: when it ends, unix milliseconds.
        path: the file it stands in; empty for one that is in no file.
    """

    kind: str
    name: str
    fingerprint: str
    not_before_ms: int
    not_after_ms: int
    path: str = ""


def severity(fact: CertificateFact, now_ms: int) -> Severity:
    """Returns how urgent the end of a certificate is.

    Renewal is due at two thirds of a certificate's life. A warning says that it should have
    happened: less than a quarter of the life is left, or for one that lives for years, less than
    180 days. An alarm says that a person must act now: less than a tenth of the life is left, and
    no fewer than 3 days (a fifth of a life too short for that), no more than 30; or it has ended.

    Args:
        fact: the certificate.
        now_ms: unix milliseconds.
    """
    life_ms = fact.not_after_ms - fact.not_before_ms
    left_ms = fact.not_after_ms - now_ms
    urgent_ms = min(max(life_ms // 10, min(_ALARM_MS_MIN, life_ms // 5)), _ALARM_MS_MAX)
    if left_ms <= 0 or left_ms < urgent_ms:
        return "alarm"
    return "warning" if left_ms < min(life_ms // 4, _WARNING_MS_MAX) else "ok"


def certificate_files(tls_dir: Path, data_dir: Path) -> list[Path]:
    """Returns every certificate file of this host, sorted: the mesh's, its services', its node's.

    Args:
        tls_dir: where the CA is.
        data_dir: where this node keeps its identity.
    """
    return _files(tls_dir, data_dir, "*.crt")


def key_files(tls_dir: Path, data_dir: Path) -> list[Path]:
    """Returns every private key of this host, sorted, from the folders of `certificate_files`."""
    return _files(tls_dir, data_dir, "*.key")


def facts_of(path: Path) -> Iterator[CertificateFact]:
    """Yields what a file of certificates holds.

    Raises:
        PkiError: if it cannot be read, or holds no certificate.
    """
    for certificate in read_certificates(path):
        yield fact_of(certificate, str(path))


def fact_of(certificate: x509.Certificate, path: str = "") -> CertificateFact:
    """Returns what one certificate says of itself."""
    kind, name = _owner(certificate)
    return CertificateFact(
        kind=kind,
        name=name,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
        path=path,
    )


def inventory(tls_dir: Path, data_dir: Path) -> list[CertificateFact]:
    """Returns every certificate of this host; a file that cannot be read is left out.

    Blocks the thread for some milliseconds.
    """
    found: list[CertificateFact] = []
    for path in certificate_files(tls_dir, data_dir):
        try:
            found += facts_of(path)
        except PkiError:
            continue  # `doctor` says what is wrong with the file
    return found


def _files(tls_dir: Path, data_dir: Path, pattern: str) -> list[Path]:
    folders = [
        tls_dir,
        *(tls_dir / name for name in _FOLDERS),
        *(data_dir / name for name in _IDENTITY_FOLDERS),
    ]
    return [path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file()]


def _owner(certificate: x509.Certificate) -> tuple[str, str]:
    """Returns the kind and the name of whoever a certificate is for.

    Source: SPIFFE-ID section 2.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = [urlsplit(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    except _UNREADABLE:
        uris = []
    spiffe = [uri for uri in uris if uri.scheme == "spiffe"]
    if _signs(certificate):
        return "ca", spiffe[0].netloc if spiffe else _common_name(certificate)
    parts = spiffe[0].path.split("/") if spiffe else []
    if len(parts) == 3:
        return parts[1], parts[2]
    return "other", _common_name(certificate)


def _signs(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except _UNREADABLE:
        return False


def _common_name(certificate: x509.Certificate) -> str:
    try:
        found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(found[0].value) if found else ""
