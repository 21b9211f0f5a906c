"""First trust: the CA this node believes, and its own identity under it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust import ca_client
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import server_name_of
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, PkiError
from pmoves_mesh.log import topology
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key, write_certificate, write_whole
from pmoves_mesh.pki.identity import Identity, Names, renewal_request, verified_identity
from pmoves_mesh.pki.keystore import split_names
from pmoves_mesh.ports import Clock

IDENTITY_DIR: Final = "identity"
LOCAL_FILE: Final = "agent.secret"
"""What programs of this host must know to be given an identity of a service: who may read the file."""

_PEEK_S: Final = 2.0
_ASK_AGAIN_S: Final = 2.0
_SECRET_BYTES: Final = 32

_log: Final = structlog.get_logger(__name__)


def identity_files(config: Config) -> tuple[Path, Path]:
    """Returns where this node's certificate and its key are."""
    directory = config.data_dir / IDENTITY_DIR
    return directory / keystore.IDENTITY_CERTIFICATE, directory / keystore.IDENTITY_KEY


def keeps_ca(config: Config) -> bool:
    """Returns whether the mesh's CA, with its key, is on this host."""
    return keystore.has_authority(config.tls_dir)


async def first_trust(
    config: Config, clock: Clock, hosts: Sequence[str], connection: Connection | None = None
) -> tuple[Trust, Identity]:
    """Returns whom this node believes, and who it is; on a mesh's first start it makes the CA.

    A certificate that ended while this host slept is renewed by the CA, if that can be reached.

    Args:
        config: the settings.
        clock: the time.
        hosts: the addresses at which this node is reached.
        connection: to the mesh's NATS, which is asked whether there is such a mesh already; None
            where nobody can log in before there is an identity.

    Raises:
        PkiError: if this node has no identity in the mesh and cannot give itself one.
    """
    if not (config.tls_dir / keystore.CA_CERTIFICATE).exists():
        if config.mesh_tls and not config.secured:
            raise PkiError(f"{config.tls_dir / keystore.CA_CERTIFICATE} is missing: {keystore.JOIN}")
        if config.nats_cluster and not config.owns_cluster:
            raise PkiError(
                f"{config.tls_dir / keystore.CA_CERTIFICATE} is missing, and of PMOVES_NATS_CLUSTER only "
                f"the first node, {config.nats_cluster[0].name}, makes it: {keystore.JOIN}"
            )
        if connection is not None:
            await _check_is_first(config, connection)
        await asyncio.to_thread(
            keystore.ensure_authority, config.tls_dir, config.mesh, clock.now_ms(), _passphrase(config)
        )
    if not keeps_ca(config):
        await _come_back(config, clock)
        if config.nats_cluster:
            await _bear_names(config, clock)
    identity = await asyncio.to_thread(_own_identity, config, clock, hosts)
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    trust.admit(identity.certificate_der)
    return trust, identity


def local_secret(config: Config) -> str:
    """Returns what programs of this host must know to be given identities; made at the first start.

    Raises:
        PkiError: if it cannot be read or written.
    """
    path = config.data_dir / LOCAL_FILE
    try:
        found = path.read_text().strip() if path.exists() else ""
    except OSError as error:
        raise PkiError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        found = secrets.token_urlsafe(_SECRET_BYTES)
        write_whole(path, found.encode(), mode=0o600)
    return found


def _own_identity(config: Config, clock: Clock, hosts: Sequence[str]) -> Identity:
    return keystore.open_identity(
        config.data_dir / IDENTITY_DIR,
        config.tls_dir,
        config.mesh,
        config.node,
        (*hosts, *_server_names(config)),
        clock.now_ms(),
        passphrase=_passphrase(config),
    )


async def _come_back(config: Config, clock: Clock) -> None:
    """Renews an identity that has ended, if there is one."""
    held = _held_identity(config) if config.ca_urls else None
    if held is None or clock.now_ms() < held.not_after_ms:
        return
    try:
        await _renew(config, held)
    except PkiError as error:
        raise PkiError(f"this node's certificate has ended and was not renewed: {error}") from None


async def _renew(config: Config, held: Identity, names: Names = ((), ())) -> None:
    """Puts a new certificate in the place of an identity's, which bears these names too."""
    roots = keystore.read_roots(config.tls_dir)
    request = renewal_request(config.mesh, held, *names)
    pem = held.certificate.public_bytes(Encoding.PEM).decode()
    issued = await ca_client.renew(config.ca_urls, roots, config.mesh, request, pem)
    write_certificate(identity_files(config)[0], x509.load_pem_x509_certificate(issued.certificate.encode()))
    _log.info("certificate renewed at the start", id=held.id)


def _server_names(config: Config) -> tuple[str, ...]:
    """Returns what the certificate of a server of this host has to bear, where one asks for certificates."""
    if not config.secured:
        return ()
    routes = tuple(one.address for one in config.nats_cluster if one.name == config.node)
    return (server_name_of(config.mesh), *routes)


async def _bear_names(config: Config, clock: Clock) -> None:
    """Has a joined host's certificate bear the names of a server; waits for the CA's host until it does."""
    wanted = split_names(_server_names(config))
    while True:
        held = await asyncio.to_thread(_held_identity, config)
        if held is None or held.covers(*wanted):
            return
        try:
            await _renew(config, held, wanted)
        except PkiError as error:
            _log.warning("this node's certificate lacks names of its nats-server", detail=str(error))
            await clock.sleep(_ASK_AGAIN_S)


def _held_identity(config: Config) -> Identity | None:
    certificate_path, key_path = identity_files(config)
    if not (certificate_path.exists() and key_path.exists()):
        return None
    roots = keystore.read_roots(config.tls_dir)
    certificate, key = read_certificates(certificate_path)[0], read_key(key_path)
    return verified_identity(config.mesh, config.node, roots, certificate, key)


def _passphrase(config: Config) -> str | None:
    return config.ca_passphrase.reveal() if config.ca_passphrase else None


async def _check_is_first(config: Config, connection: Connection) -> None:
    """Keeps a second host from making a second CA for a mesh that has one."""
    try:
        await connection.wait_connected(_PEEK_S)
        found = await topology.peek(connection)
    except LogError as error:
        if config.visits_hub:
            raise PkiError(
                f"{config.tls_dir / keystore.CA_CERTIFICATE} is missing, and the mesh of NATS_EXTERNAL_URL "
                f"cannot be asked now ({error}): {keystore.JOIN}"
            ) from None
        return  # what it is will show when the link joins
    if found is not None:
        raise PkiError(
            f"{connection.server_url} already holds mesh {found.mesh}, whose CA "
            f"({found.ca_fingerprint[:16]}...) is not in {config.tls_dir}: {keystore.JOIN}"
        )
