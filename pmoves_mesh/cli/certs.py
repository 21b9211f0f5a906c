"""`certs`: the mesh's CA and the certificates in PMOVES_TLS_DIR."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from cryptography import x509

from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, example, print_json, print_table
from pmoves_mesh.cli.trust import revoke_command
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import parse_host
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates

_COLUMNS: Final = (
    Column("FILE", "file"),
    Column("IDENTITY", "identity"),
    Column("NAMES", "names"),
    Column("FROM", "not_before"),
    Column("UNTIL", "not_after"),
    Column("DAYS LEFT", "days_left"),
)
_ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is on no host, so that its route is the default one. Source: RFC 5737."""


@click.group("certs", epilog=example("pmoves-mesh certs init", "pmoves-mesh certs show"))
def certs_command() -> None:
    """Make or show the mesh's CA and the certificates in PMOVES_TLS_DIR."""


certs_command.add_command(revoke_command)


@certs_command.command("init", epilog=example("pmoves-mesh certs init"))
@click.option("--force", is_flag=True, help="Make all anew, the CA too: what it signed is trusted no more.")
def init_command(*, force: bool) -> None:
    """Make the CA, a NATS server's certificate and this host's client certificate.

    What is there is kept, so it may run again.
    """
    config = read_config()
    made, kept = keystore.init(
        config.tls_dir, config.mesh, config.node, _server_names(config), SystemClock().now_ms(), force=force
    )
    for what, paths in (("made", made), ("kept", kept)):
        for path in sorted(paths):
            click.echo(f"{what}  {path}")


@certs_command.command("show", epilog=example("pmoves-mesh certs show", "pmoves-mesh certs show --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show_command(*, as_json: bool) -> None:
    """Show whose certificates are there, for which names, and until when."""
    tls_dir = read_config().tls_dir
    now_ms = SystemClock().now_ms()
    shown = [
        _described(path, certificate, now_ms)
        for path in sorted(tls_dir.glob("*.crt"))
        for certificate in read_certificates(path)
    ]
    if as_json:
        print_json(shown)
    else:
        print_table(
            _COLUMNS, shown, empty=f"no certificates in {tls_dir}; make them with: pmoves-mesh certs init"
        )


def _described(path: Path, certificate: x509.Certificate, now_ms: int) -> dict[str, Any]:
    uris, names = _alternative_names(certificate)
    left_s = certificate.not_valid_after_utc.timestamp() - now_ms / 1000
    return {
        "file": path.name,
        "identity": uris[0] if uris else certificate.subject.rfc4514_string(),
        "names": names,
        "not_before": certificate.not_valid_before_utc.isoformat(timespec="seconds"),
        "not_after": certificate.not_valid_after_utc.isoformat(timespec="seconds"),
        "days_left": round(left_s / 86400, 1) if left_s > 0 else "expired",
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
    named = [socket.gethostname(), _own_address(), config.advertise_host]
    named += [urlsplit(url).hostname for url in config.nats_external]
    found = []
    for name in filter(None, named):
        try:
            found.append(parse_host(name, "name"))
        except InvalidFieldError:
            continue  # a host may have a name that no certificate can bear
    return list(dict.fromkeys(found))


def _own_address() -> str | None:
    """Returns the address that this host sends from, or None when it has no route; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])
