"""`join`: makes this host a node of a mesh, with a token from the host that keeps the CA."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.agent import lan
from pmoves_mesh.agent.trust import ca_client
from pmoves_mesh.agent.trust.joining import own_addresses
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.cli import envfile
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import parse_label
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import ConfigError, EnrolmentRefusedError, PkiError, StartError
from pmoves_mesh.pki import keystore, tokens
from pmoves_mesh.pki.files import locked, read_certificates, read_key, write_key
from pmoves_mesh.pki.requests import make_request
from pmoves_mesh.pki.tokens import JoinToken
from pmoves_mesh.ports import IssuedIdentity
from pmoves_mesh.values import ENV_FILE

_JOINING_KEY: Final = "joining.key"
"""The key that is being certified: if the answer goes astray, the same token works again with it."""

_SETTINGS: Final = ("PMOVES_MESH_NAME", "MESH_HOSTNAME", "NATS_URL", "PMOVES_CA_URL")


@click.command(
    "join", epilog=example("pmoves-mesh join pmoves1-...", "pmoves-mesh join pmoves1-... --name jetson")
)
@click.argument("token")
@click.option(
    "--name", help="This node's name in the mesh. Default: the token's, else the setting's, else the host's."
)
@click.option(
    "--force", is_flag=True, help="Leave the mesh that this host is in, and replace settings that differ."
)
def join_command(*, token: str, name: str | None, force: bool) -> None:
    """Make this host a node of a mesh; `pmoves-mesh up` (or `make up`) starts it then.

    The key is made here and stays here. What the token says of the mesh's CA is checked before
    anything secret is sent.
    """
    config = read_config()
    found = tokens.decode(token)
    node = parse_label(name, "name") if name else found.node or config.node
    _check_free(config, found, node, force=force)
    with locked(config.data_dir / IDENTITY_DIR):
        key = _joining_key(config)
        given = _ask(config, found, node, key)
        _adopt(config, given, key, settings := _settings(given, found, node))
        (config.data_dir / IDENTITY_DIR / _JOINING_KEY).unlink(missing_ok=True)
    click.echo(cell(f"joined: mesh {found.mesh}, as node {node}"))
    for path in (
        config.tls_dir / keystore.CA_CERTIFICATE,
        config.data_dir / IDENTITY_DIR,
        Path.cwd() / ENV_FILE,
    ):
        click.echo(f"wrote   {path}")
    click.echo(cell(f"next: pmoves-mesh up (it uses NATS at {settings['NATS_URL']})"), err=True)


def _check_free(config: Config, token: JoinToken, node: str, *, force: bool) -> None:
    """Checks that joining takes nothing from this host that it should keep, before the token is used."""
    mesh = present_mesh(config)
    if mesh and not force:
        raise StartError(
            f"this host is in mesh {mesh} already ({config.tls_dir / keystore.CA_CERTIFICATE}); nothing was "
            f"changed: to leave it, stop the agent and add --force"
        )
    known = {"PMOVES_MESH_NAME": token.mesh, "MESH_HOSTNAME": node}
    fitting = {"PMOVES_MESH_NAME": config.mesh == token.mesh, "MESH_HOSTNAME": config.node == node}
    for name in (*_SETTINGS, "NODE_NAME"):
        text = os.environ.get(name, "").strip()
        if text and not fitting.get("MESH_HOSTNAME" if name == "NODE_NAME" else name, False):
            raise ConfigError(
                name, text, f"joining sets it in {ENV_FILE}, but the environment outranks that: unset it"
            )
    # The CA says the other two, but only once, so whatever stands there may have to go.
    wanted = known | {"NATS_URL": "", "PMOVES_CA_URL": ",".join(token.urls)}
    for name, text in envfile.differing(Path.cwd(), wanted).items():
        if not force:
            raise ConfigError(
                name, text, f"joining would replace it in {ENV_FILE}: add --force, or remove it there"
            )


def present_mesh(config: Config) -> str | None:
    """Returns the mesh that this host is in, None if it is in none."""
    held = (
        config.tls_dir / keystore.CA_CERTIFICATE,
        config.data_dir / IDENTITY_DIR / keystore.IDENTITY_CERTIFICATE,
    )
    for path in held:
        if path.exists():
            try:
                names = read_certificates(path)[0].extensions.get_extension_for_class(
                    x509.SubjectAlternativeName
                )
            except (PkiError, x509.ExtensionNotFound, ValueError):
                return config.mesh
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
            return uris[0].removeprefix("spiffe://").partition("/")[0] if uris else config.mesh
    return None


def _joining_key(config: Config) -> ec.EllipticCurvePrivateKey:
    path = config.data_dir / IDENTITY_DIR / _JOINING_KEY
    if path.exists():
        return read_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(path, key)
    return key


def _ask(config: Config, token: JoinToken, node: str, key: ec.EllipticCurvePrivateKey) -> IssuedIdentity:
    """Returns what the CA gives; the key that it refused is of no use any more."""
    hosts = (node, *keystore.LOOPBACK, *own_addresses(), *filter(None, (config.advertise_host,)))
    csr = make_request(token.mesh, "node", node, key, *keystore.split_names(dict.fromkeys(hosts)))
    try:
        return asyncio.run(_answer(token, csr))
    except EnrolmentRefusedError:
        (config.data_dir / IDENTITY_DIR / _JOINING_KEY).unlink(missing_ok=True)
        raise


async def _answer(token: JoinToken, csr: str) -> IssuedIdentity:
    """Returns what the CA gives, where the token says it is, or else where mDNS says that it may be."""
    try:
        return await ca_client.join(token, csr)
    except PkiError as error:
        if isinstance(error, EnrolmentRefusedError) and error.reason != "wrong_ca":
            raise
        urls = [url for hub in await lan.find() if hub.mesh == token.mesh for url in hub.urls]
        if not urls and not lan.is_usable():
            raise PkiError(f"{error} (pmoves-mesh[mdns] would look for it on this network too)") from None
        if not urls:
            raise
    click.echo(f"looking for the CA where mDNS says: {', '.join(urls)}", err=True)
    return await ca_client.join(replace(token, urls=tuple(urls)), csr)


def _settings(given: IssuedIdentity, token: JoinToken, node: str) -> dict[str, str]:
    """Returns what goes into `env.shared`: only what joining is about, whatever the CA says."""
    said = {name: given.settings[name] for name in _SETTINGS if given.settings.get(name)}
    own = {"PMOVES_MESH_NAME": token.mesh, "MESH_HOSTNAME": node}
    settings = {"PMOVES_CA_URL": ",".join(token.urls)} | said | own
    if "NATS_URL" not in settings:
        raise PkiError(f"node {token.issuer} did not say where the mesh's NATS is: is it of this release?")
    return settings


def _adopt(
    config: Config, given: IssuedIdentity, key: ec.EllipticCurvePrivateKey, settings: dict[str, str]
) -> None:
    """Writes all that was given; what another mesh left here is moved aside."""
    roots = [x509.load_pem_x509_certificate(pem.encode()) for pem in given.roots]
    with locked(config.tls_dir):
        _set_aside(config.tls_dir, roots)
        keystore.write_roots(config.tls_dir, roots)
    certificate = x509.load_pem_x509_certificate(given.certificate.encode())
    keystore.write_identity(config.data_dir / IDENTITY_DIR, certificate, key)
    envfile.merge(Path.cwd(), settings)


def _set_aside(tls_dir: Path, roots: list[x509.Certificate]) -> None:
    """Moves the files of the CA that this host had into a directory of their own."""
    path = tls_dir / keystore.CA_CERTIFICATE
    if not path.exists():
        return
    try:
        held = read_certificates(path)
        if set(held) & set(roots):
            return
        label = fingerprint(held[0])[:8]
    except PkiError:
        label = "damaged"
    aside = tls_dir / f"before-{label}"
    aside.mkdir(mode=0o700, exist_ok=True)
    for one in [*tls_dir.glob("*.crt"), *tls_dir.glob("*.key"), *tls_dir.glob("*.db*")]:
        one.replace(aside / one.name)
    click.echo(f"moved the files of the CA that was here to {aside}", err=True)
