"""`certs`: the mesh's CA, the certificates in PMOVES_TLS_DIR, and those that were given to others."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from cryptography import x509

from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.joining import own_addresses
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, cell, example, print_fields, print_json, print_table
from pmoves_mesh.cli.issuance import issue_command, passphrase_of, renew_command
from pmoves_mesh.cli.rotation import rotate_command
from pmoves_mesh.cli.trust import revoke_command
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.limits import patterns_of
from pmoves_mesh.core.names import parse_host, spiffe_id
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.pki.requests import key_id
from pmoves_mesh.store.ledger import LEDGER_FILE, IssuedCertificate, Ledger

_COLUMNS: Final = (
    Column("FILE", "file"),
    Column("IDENTITY", "identity"),
    Column("NAMES", "names"),
    Column("FROM", "not_before"),
    Column("UNTIL", "not_after"),
    Column("DAYS LEFT", "days_left"),
)
_LEDGER_COLUMNS: Final = (
    Column("FINGERPRINT", "short"),
    Column("IDENTITY", "identity"),
    Column("STATE", "state"),
    Column("ALLOW", "allow"),
    Column("ISSUED", "issued"),
    Column("UNTIL", "not_after"),
    Column("VOUCHED FOR BY", "requester"),
)


@click.group("certs", epilog=example("pmoves-mesh certs init", "pmoves-mesh certs show"))
def certs_command() -> None:
    """Make, renew or show the mesh's CA and its certificates."""


certs_command.add_command(revoke_command)
certs_command.add_command(rotate_command)
certs_command.add_command(issue_command)
certs_command.add_command(renew_command)


@certs_command.command(
    "init", epilog=example("pmoves-mesh certs init", "pmoves-mesh certs init --passphrase")
)
@click.option("--force", is_flag=True, help="Make all anew, the CA too: what it signed is trusted no more.")
@click.option(
    "--passphrase", "ask", is_flag=True, help="Ask for a passphrase. Default: MESH_PASSPHRASE, or none."
)
def init_command(*, force: bool, ask: bool) -> None:
    """Make the CA, a NATS server's certificate and this host's client certificate.

    What is there is kept, so it may run again. A passphrase encrypts the CA's key; the agent
    then needs it in MESH_PASSPHRASE to issue and renew.
    """
    config = read_config()
    passphrase = passphrase_of(config)
    if ask:
        new = force or not (config.tls_dir / keystore.CA_KEY).exists()
        passphrase = click.prompt(
            "passphrase of the CA's key", hide_input=True, confirmation_prompt=new, err=True
        )
    made, kept = keystore.init(
        config.tls_dir,
        config.mesh,
        config.node,
        _server_names(config),
        SystemClock().now_ms(),
        force=force,
        passphrase=passphrase,
    )
    if (config.tls_dir / LEDGER_FILE).exists():
        # An agent runs or ran here: it lets in whom it finds in the ledger.
        Issuing(config.tls_dir, config.mesh, config.node).record_files(SystemClock().now_ms())
    for what, paths in (("made", made), ("kept", kept)):
        for path in sorted(paths):
            click.echo(f"{what}  {path}")


@certs_command.command("list", epilog=example("pmoves-mesh certs list", "pmoves-mesh certs list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_command(*, as_json: bool) -> None:
    """List every certificate that the CA of this host gave to others."""
    config, now_ms = read_config(), SystemClock().now_ms()
    recorded = Ledger(config.tls_dir / LEDGER_FILE).certificates()
    shown = [_recorded(config, one, now_ms) for one in recorded]
    if as_json:
        print_json(shown)
    else:
        print_table(_LEDGER_COLUMNS, shown, empty="this host has given no certificates")


@certs_command.command(
    "show",
    epilog=example(
        "pmoves-mesh certs show", "pmoves-mesh certs show server", "pmoves-mesh certs show jetson"
    ),
)
@click.argument("target", metavar="[FILE|NAME]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show_command(*, target: str | None, as_json: bool) -> None:
    """Show whose certificates are there, for which names, and until when.

    Without an argument those in PMOVES_TLS_DIR; else a file, or those that the CA of this host
    gave to that name.
    """
    config, now_ms = read_config(), SystemClock().now_ms()
    found: list[tuple[Path | None, x509.Certificate]]
    if target is None:
        paths = [*config.tls_dir.glob("*.crt"), *(config.tls_dir / keystore.SERVICES_DIR).glob("*.crt")]
        found = [(path, one) for path in sorted(paths) for one in read_certificates(path)]
    else:
        found = _found(config, target)
    shown = [_described(config.tls_dir, path, certificate, now_ms) for path, certificate in found]
    if as_json:
        print_json(shown)
    elif target is None:
        empty = f"no certificates in {config.tls_dir}; make them with: pmoves-mesh certs init"
        print_table(_COLUMNS, shown, empty=empty)
    else:
        for one in shown:
            print_fields(one.items())


def _found(config: Config, target: str) -> list[tuple[Path | None, x509.Certificate]]:
    """Returns the certificates in a file, named as one likes, else those that were given to a name."""
    places = (Path(), config.tls_dir, config.tls_dir / keystore.SERVICES_DIR)
    for path in (place / name for place in places for name in (target, f"{target}.crt")):
        if path.is_file():
            return [(path, one) for one in read_certificates(path)]
    given = Ledger(config.tls_dir / LEDGER_FILE).certificates(name=target)
    if not given:
        raise click.ClickException(cell(f"{target} is no file with a certificate, and the CA gave it none"))
    return [(None, x509.load_der_x509_certificate(one.der)) for one in given]


def _recorded(config: Config, certificate: IssuedCertificate, now_ms: int) -> dict[str, Any]:
    live = "valid" if now_ms < certificate.not_after_ms else "expired"
    return {
        "identity": spiffe_id(config.mesh, certificate.kind, certificate.name),
        "state": live if certificate.revoked_ms is None else "revoked",
        "allow": list(certificate.allow),
        "issued": iso(certificate.issued_ms),
        "not_after": iso(certificate.not_after_ms),
        "revoked": None if certificate.revoked_ms is None else iso(certificate.revoked_ms),
        "requester": certificate.requester,
        "fingerprint": certificate.fingerprint,
        "short": certificate.fingerprint[:16],
        "key_id": certificate.key_id,
        "root": certificate.root,
    }


def _described(
    tls_dir: Path, path: Path | None, certificate: x509.Certificate, now_ms: int
) -> dict[str, Any]:
    uris, names = _alternative_names(certificate)
    left_s = certificate.not_valid_after_utc.timestamp() - now_ms / 1000
    inside = path is not None and path.is_relative_to(tls_dir)
    return {
        "file": str(path.relative_to(tls_dir)) if path and inside else path and str(path),
        "identity": uris[0] if uris else certificate.subject.rfc4514_string(),
        "names": names,
        "allow": list(patterns_of(certificate)),
        "not_before": certificate.not_valid_before_utc.isoformat(timespec="seconds"),
        "not_after": certificate.not_valid_after_utc.isoformat(timespec="seconds"),
        "days_left": round(left_s / 86400, 1) if left_s > 0 else "expired",
        "fingerprint": fingerprint(certificate),
        "key_id": key_id(certificate.public_key()),
    }


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Returns the URIs, and the host names and addresses, that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return names.get_values_for_type(x509.UniformResourceIdentifier), hosts


def _server_names(config: Config) -> list[str]:
    """Returns what others may call this host's NATS server: its name, its address, what the settings say."""
    named = [socket.gethostname(), *own_addresses(), config.advertise_host]
    named += [urlsplit(url).hostname for url in config.nats_external]
    found = []
    for name in filter(None, named):
        try:
            found.append(parse_host(name, "name"))
        except InvalidFieldError:
            continue  # a host may have a name that no certificate can bear
    return list(dict.fromkeys(found))
