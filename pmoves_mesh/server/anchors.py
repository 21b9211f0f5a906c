"""What a nats-server trusts a mesh's CA for: identities of that mesh, and of no other on the same server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.errors import StartError

_KEPT: Final = (x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier)


def constrained_anchors(roots_pem: str, mesh: str, strangers: Sequence[str] = ()) -> str:
    """Returns trust anchors (PEM) for a mesh's CA certificates, good for that mesh alone.

    Args:
        roots_pem: the CA certificates.
        mesh: whose they are.
        strangers: the user names of all other meshes on the server.

    Raises:
        StartError: if there is no certificate in it that can be used.
    """
    try:
        roots = x509.load_pem_x509_certificates(roots_pem.encode())
        return "".join(constrained_anchor(root, mesh, strangers) for root in roots)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise StartError(f"the CA certificate of mesh {mesh} cannot be used: {error}") from None


def constrained_anchor(root: x509.Certificate, mesh: str, strangers: Sequence[str] = ()) -> str:
    """Returns a CA certificate once more (PEM), limited to URIs of one trust domain.

    It has the CA's own name, key and key id, so whatever chains to the CA chains to it. Nobody
    checks the signature of a trust anchor (RFC 5280 section 6.1), and the CA's key is not at hand
    where it is made, so it is signed by a key that anybody could make; the same input gives the
    same bytes.

    nats-server compares host names in a certificate with its user names as well, and a host name
    that reads like a SPIFFE ID would pass a limit on URIs: the users of other meshes are therefore
    excluded as host names too.

    Raises:
        ExtensionNotFound: if it is no CA's certificate.

    Source: RFC 5280 section 4.2.1.10.
    """
    throwaway = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"pmoves-mesh trust anchor").digest())
    limits = x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier(mesh)],
        excluded_subtrees=[x509.DNSName(name) for name in sorted(strangers)] or None,
    )
    builder = (
        x509.CertificateBuilder(subject_name=root.subject, issuer_name=root.subject)
        .public_key(root.public_key())
        .serial_number(root.serial_number)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(limits, critical=True)
    )
    for kind in _KEPT:
        extension = root.extensions.get_extension_for_class(kind)
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(throwaway, None).public_bytes(Encoding.PEM).decode()
