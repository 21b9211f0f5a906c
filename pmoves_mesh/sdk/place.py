"""Where a program finds its agent and its mesh's NATS, and as whom it speaks to them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509

from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.core.names import JETSTREAM_API, MESH_API, inbox_prefix, parse_label, spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import ConfigError, PkiError
from pmoves_mesh.log.connection import NatsSettings
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.tls import client_context

_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound
_IDENTITY_DIR: Final = "identity"


class Files(NamedTuple):
    """An identity on disk, PEM; it is read anew with each connection, so a renewal is taken up."""

    certificate: Path
    key: Path


class Place(NamedTuple):
    """Where an agent answers.

    Attributes:
        url: `http://host:port` or `https://host:port`.
        context: what https is spoken with; None for the system's way.
    """

    url: str
    context: ssl.SSLContext | None


def identity_files(config: Config, service: str) -> Files | None:
    """Returns as whom a program speaks: as a service with its own identity, else as this node.

    Args:
        config: the host's settings.
        service: the service, for which `pmoves-mesh certs issue --service` got an identity; empty for none.

    Raises:
        PkiError: if a service is named that has no identity on this host.
    """
    if service:
        stem = config.tls_dir / keystore.SERVICES_DIR / parse_label(service, "identity")
        files = Files(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        if not files.certificate.exists():
            remedy = f"get one with: pmoves-mesh certs issue --service {service}"
            raise PkiError(f"{files.certificate} is missing: {remedy}")
        return files
    directory = config.data_dir / _IDENTITY_DIR
    files = Files(directory / keystore.IDENTITY_CERTIFICATE, directory / keystore.IDENTITY_KEY)
    return files if _is_readable(files) else None


def agent_place(config: Config, url: str | None, files: Files | None) -> Place:
    """Returns where the agent is.

    Args:
        config: the host's settings, which name the agent if `url` does not.
        url: its address.
        files: what is shown to it over https; None for nothing.

    Raises:
        ConfigError: if the agent picks its own port, which nobody outside it can know.
        PkiError: if the identity's files cannot be used.
    """
    url = (url or config.agent_url or "").rstrip("/")
    node = "*"
    if not url:
        if config.http_port == 0:
            raise ConfigError("SERVICE_REGISTRY_PORT", "0", "a program must know the port: 1 to 65535")
        host = _WILDCARDS.get(config.http_host, config.http_host)
        # Seen from itself a host with one outside address is another host, to whom TLS is spoken.
        scheme = "http" if is_loopback(host) or config.insecure_http else "https"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.http_port}"
        node = config.node
    roots = config.tls_dir / keystore.CA_CERTIFICATE
    if not url.startswith("https://") or not roots.exists():
        return Place(url, None)
    certificate, key = files or (None, None)
    context = client_context(certificate, key, roots, allow=(spiffe_id(config.mesh, "node", node),))
    return Place(url, context)


def nats_settings(config: Config, servers: Sequence[str], files: Files | None) -> NatsSettings:
    """Returns how to reach the mesh's NATS: by TLS with an identity, if no other login is set.

    Args:
        config: the host's settings.
        servers: URLs that take the place of those in the settings, if there are any.
        files: the identity.

    Raises:
        PkiError: if the identity's files cannot be used.
    """
    found = tuple(servers) or config.nats_servers
    name = f"pmoves-mesh program on {config.node}"
    if found[0].startswith("tls://") and files is not None and _logs_in_by_certificate(config):
        kind, holder = _holder(config.mesh, files.certificate)
        return NatsSettings(
            servers=found,
            name=name,
            tls_ca=config.tls_dir / keystore.CA_CERTIFICATE,
            tls_cert=files.certificate,
            tls_key=files.key,
            tls_server=config.mesh,
            inbox_prefix="_INBOX" if kind == "service" else inbox_prefix(kind, holder),
            api_prefix=JETSTREAM_API if keystore.has_authority(config.tls_dir) else MESH_API,
        )
    return NatsSettings(
        servers=found,
        name=name,
        user=config.nats_user,
        password=config.nats_password.reveal() if config.nats_password else None,
        token=config.nats_token.reveal() if config.nats_token else None,
        creds_path=config.nats_creds,
        nkey_seed_path=config.nats_nkey_seed,
        tls_ca=config.nats_tls_ca,
        tls_cert=config.nats_tls_cert,
        tls_key=config.nats_tls_key,
    )


def _logs_in_by_certificate(config: Config) -> bool:
    others = (config.nats_tls_ca, config.nats_tls_cert, config.nats_creds, config.nats_nkey_seed)
    return not any((*others, config.nats_user, config.nats_password, config.nats_token))


def _holder(mesh: str, certificate: Path) -> tuple[SignerKind, str]:
    """Returns whose certificate it is, by its one SPIFFE ID."""
    names = (
        read_certificates(certificate)[0]
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        kinds: tuple[SignerKind, ...] = ("node", "service", "operator")
        for kind in kinds:
            if uri.startswith(prefix := spiffe_id(mesh, kind, "")):
                return kind, uri.removeprefix(prefix)
    raise PkiError(f"{certificate}: is no identity of mesh {mesh}")


def _is_readable(files: Files) -> bool:
    try:
        for path in files:
            path.open("rb").close()
    except OSError:
        return False  # this program is not the agent's user
    return True
