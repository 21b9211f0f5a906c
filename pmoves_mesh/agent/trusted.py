"""First trust: the CA this node believes, and its own identity under it."""

from __future__ import annotations

from typing import Final

from pmoves_mesh.config import Config
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, PkiError
from pmoves_mesh.log import topology
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock

IDENTITY_DIR: Final = "identity"
_PEEK_S: Final = 2.0


async def first_trust(
    config: Config, connection: Connection, clock: Clock, host: str
) -> tuple[Trust, Identity]:
    """Returns whom this node believes, and who it is; on a mesh's first start it makes the CA.

    Raises:
        PkiError: if this node has no identity in the mesh and cannot give itself one.
    """
    if not (config.tls_dir / keystore.CA_CERTIFICATE).exists():
        await _check_is_first(config, connection)
        keystore.ensure_authority(config.tls_dir, config.mesh, clock.now_ms())
    identity = own_identity(config, clock, host)
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    trust.admit(identity.certificate_der)
    return trust, identity


def own_identity(config: Config, clock: Clock, host: str) -> Identity:
    """Returns this node's identity, renewed if it is time and the CA's key is at hand.

    Raises:
        PkiError: if there is none that can be used.
    """
    return keystore.open_identity(
        config.data_dir / IDENTITY_DIR, config.tls_dir, config.mesh, config.node, (host,), clock.now_ms()
    )


async def _check_is_first(config: Config, connection: Connection) -> None:
    """Keeps a second host from making a second CA for a mesh that has one."""
    try:
        await connection.wait_connected(_PEEK_S)
        found = await topology.peek(connection)
    except LogError:
        return  # what it is will show when the link joins
    if found is not None:
        raise PkiError(
            f"{connection.server_url} already holds mesh {found.mesh}, whose CA is not in {config.tls_dir}: "
            f"copy {keystore.CA_CERTIFICATE} and "
            f"{keystore.CA_KEY} (fingerprint {found.ca_fingerprint[:16]}...) to {config.tls_dir}"
        )
