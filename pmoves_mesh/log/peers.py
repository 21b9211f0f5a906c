"""TLS towards a nats-server that is known by its SPIFFE ID, not by the name or address it is reached at."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from pmoves_mesh.errors import PeerNotAllowed


class _PeerObject(ssl.SSLObject):
    """The TLS of one connection, whose handshake fails unless the peer is one of those expected."""

    def do_handshake(self) -> None:
        super().do_handshake()
        # Whatever is raised here ends the connection before a byte of the protocol is sent.
        if isinstance(self.context, _PeerContext):
            self.context.check(self.getpeercert())


class _PeerContext(ssl.SSLContext):
    """A client's context with a list of SPIFFE IDs; one that ends in `*` stands for all that begin so."""

    sslobject_class = _PeerObject
    allow: tuple[str, ...] = ()

    def check(self, certificate: object) -> None:
        names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
        uris = [value for kind, value in names if kind == "URI"]
        if len(uris) != 1 or not any(_matches(uris[0], allowed) for allowed in self.allow):
            refusal = PeerNotAllowed(", ".join(uris), self.allow)
            raise ssl.SSLCertVerificationError(1, str(refusal))


def client_context(
    certificate: Path | None, key: Path | None, roots: Path, *, allow: Sequence[str]
) -> ssl.SSLContext:
    """Returns a context that trusts `roots` alone, shows our certificate, and checks the peer's SPIFFE ID.

    Args:
        certificate: ours (PEM); None shows none.
        key: its key (PEM); None if it is in the same file.
        roots: the CA certificates (PEM) that the peer must chain to.
        allow: the SPIFFE IDs that the peer may have; one that ends in `*` allows all that begin so.

    Raises:
        OSError: if a file cannot be read or used.

    Source: SPIFFE X.509-SVID section 5.
    """
    context = _PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # the SPIFFE ID is checked instead
    context.allow = tuple(allow)
    context.load_verify_locations(cafile=roots)
    if certificate is not None:
        # An encrypted key fails here instead of asking a terminal for its password.
        context.load_cert_chain(certificate, key, password=lambda: "")
    return context


def _matches(identity: str, allowed: str) -> bool:
    if allowed.endswith("*"):
        return identity.startswith(allowed[:-1]) and len(identity) >= len(allowed)
    return identity == allowed
