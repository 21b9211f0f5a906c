"""With which identity a person administers the mesh: a certificate kept for that, or one made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.errors import KeyPermission, PkiError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.identity import Identity, verified_identity
from pmoves_mesh.pki.rotation import load_authority_of
from pmoves_mesh.pki.templates import CertificateRequest

OPERATOR_CERTIFICATE: Final = "operator.crt"
OPERATOR_KEY: Final = "operator.key"

ON_THE_SPOT_S: Final = 3600
"""How long an operator's certificate holds that is made for one command."""


def operator_identity(
    tls_dir: Path,
    mesh: str,
    name: str,
    now_ms: int,
    passphrase: str | None = None,
    issuer: str | None = None,
) -> Identity:
    """Returns an operator's identity: that in `operator.crt`, else one that the CA's key issues now.

    Nobody has seen one that was issued now: its certificate has to be shown to the mesh first.

    Args:
        tls_dir: where the CA and the operator's files are.
        mesh: the trust domain.
        name: whom to issue it to; one that is kept may be anybody's.
        now_ms: unix milliseconds.
        passphrase: of the CA's key.
        issuer: fingerprint of the CA certificate that it has to chain to; None for any.

    Raises:
        PkiError: if there is neither an operator's certificate that holds nor the CA's key.
        KeyPermission: if others can read a key.
    """
    kept = _kept(tls_dir, mesh, now_ms)
    if kept is not None and issuer in {kept.root, None}:
        return kept
    if not keystore.has_authority(tls_dir):
        raise PkiError(
            f"{tls_dir} has neither an operator's certificate that holds ({OPERATOR_CERTIFICATE}) nor "
            f"{keystore.CA_KEY}: run this on the host that keeps the CA, or issue one there with: "
            f"pmoves-mesh certs issue {name} --operator"
        )
    if issuer is None:
        authority = keystore.load_authority(tls_dir, mesh, passphrase)
    else:
        authority = load_authority_of(tls_dir, mesh, issuer, passphrase)
    key = ec.generate_private_key(ec.SECP256R1())
    request = CertificateRequest(
        kind="operator", name=name, public_key=key.public_key(), lifetime_s=ON_THE_SPOT_S
    )
    certificate = authority.issue(request, now_ms)
    return verified_identity(mesh, name, (authority.certificate,), certificate, key, "operator")


def _kept(tls_dir: Path, mesh: str, now_ms: int) -> Identity | None:
    """Returns the operator's identity that is kept here, if it holds."""
    certificate_path, key_path = tls_dir / OPERATOR_CERTIFICATE, tls_dir / OPERATOR_KEY
    if not (certificate_path.exists() and key_path.exists()):
        return None
    try:
        kept = verified_identity(
            mesh,
            None,
            keystore.read_roots(tls_dir),
            read_certificates(certificate_path)[0],
            read_key(key_path),
            "operator",
        )
    except KeyPermission:
        raise
    except PkiError as error:
        raise PkiError(f"{certificate_path}: {error}") from None
    return kept if now_ms < kept.not_after_ms else None
