"""`certs issue` and `certs renew`: certificates as files, from the CA's key or through this host's agent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import click
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.trusted import LOCAL_FILE
from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.cli.durations import Duration
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.limits import parse_patterns, patterns_of
from pmoves_mesh.core.names import parse_label
from pmoves_mesh.core.trust import SignerKind, Trust, fingerprint
from pmoves_mesh.errors import MeshError, PkiError, UntrustedIssuer
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.authority import BACKDATE_MAX_S, LIFETIME_MAX_S
from pmoves_mesh.pki.files import locked, read_certificates, read_key, write_certificate, write_key
from pmoves_mesh.pki.identity import Identity, renewal_request, verified_identity
from pmoves_mesh.pki.operator import OPERATOR_CERTIFICATE
from pmoves_mesh.pki.requests import RequestedIdentity, make_request, read_request
from pmoves_mesh.pki.templates import BACKDATE_S, NODE_LIFETIME_S, CertificateRequest
from pmoves_mesh.values import Secret

_NODES_DIR: Final = "nodes"


class _Terms(NamedTuple):
    """On which terms a certificate is issued."""

    allow: tuple[str, ...]
    lifetime_s: int
    backdate_s: int | None


@click.command(
    "issue",
    epilog=example(
        "pmoves-mesh certs issue --service whisper",
        "pmoves-mesh certs issue jetson --csr jetson.csr --allow 'whisper-*' > jetson.crt",
    ),
)
@click.argument("name")
@click.option("--node", "kind", flag_value="node", help="For a node (the default).")
@click.option("--service", "kind", flag_value="service", help="For a service.")
@click.option("--operator", "kind", flag_value="operator", help="For a person who administers the mesh.")
@click.option("--san", "sans", multiple=True, help="Host name or address that it is for; may be repeated.")
@click.option("--lifetime", type=Duration(10, LIFETIME_MAX_S), help="How long it holds. Default: 30d.")
@click.option(
    "--allow", multiple=True, help="Service names that it may state; may be repeated. Default: any."
)
@click.option(
    "--backdate", type=Duration(0, BACKDATE_MAX_S), help="How far it begins in the past. Default: 1h."
)
@click.option(
    "--csr", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Sign this request; print it."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Directory to write NAME.crt to."
)
@click.option("--force", is_flag=True, help="Replace a certificate and key that are there.")
def issue_command(
    *,
    name: str,
    kind: SignerKind | None,
    sans: tuple[str, ...],
    lifetime: int | None,
    allow: tuple[str, ...],
    backdate: int | None,
    csr: Path | None,
    out: Path | None,
    force: bool,
) -> None:
    """Issue a certificate, for a key that is made here or, with --csr, for one that stays elsewhere.

    Where the CA's key is not at hand, this host's agent asks for a service's certificate.
    """
    config, kind = read_config(), kind or "node"
    label = parse_label(name, "name")
    terms = _Terms(
        parse_patterns(allow),
        NODE_LIFETIME_S if lifetime is None else lifetime,
        backdate,
    )
    at_hand = keystore.has_authority(config.tls_dir)
    if not at_hand and (kind != "service" or csr is not None or allow or lifetime is not None or backdate):
        raise PkiError(
            f"{config.tls_dir / keystore.CA_KEY} is not here, and without it only a service's certificate "
            f"can be had, through this host's agent, on the usual terms"
        )
    if csr is not None:
        _sign_request(config, csr, (kind, label), sans, terms, out)
        return
    path = _place(config, kind, label, out)
    with locked(path.parent):
        if path.exists() and not force:
            raise PkiError(
                f"{path} is there already: pmoves-mesh certs renew renews it, --force makes it anew"
            )
        key = _key_at(path.with_suffix(".key"), force=force)
        request = make_request(config.mesh, kind, label, key, *keystore.split_names(sans))
        if at_hand:
            certificate = _signed(config, read_request(request, config.mesh), terms)
        else:
            body = {"name": label, "csr": request}
            certificate = _from_agent(config, "/api/certificates", body, (kind, label), key)
        write_key(path.with_suffix(".key"), key)
        write_certificate(path, certificate)
    click.echo(f"made  {path}\nmade  {path.with_suffix('.key')}")


@click.command("renew", epilog=example("pmoves-mesh certs renew", "pmoves-mesh certs renew server whisper"))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Renew them all, however long they still hold.")
def renew_command(*, names: tuple[str, ...], every: bool) -> None:
    """Renew the certificates in PMOVES_TLS_DIR that have less than a third of their time left.

    Those of an earlier CA are renewed too. With names, such as `server` or `whisper`, those are
    renewed at once. Keys and names stay.
    """
    config, now_ms = read_config(), SystemClock().now_ms()
    held = {path.stem: path for path in keystore.kept_files(config.tls_dir)}
    if unknown := [name for name in names if name not in held]:
        raise click.ClickException(
            cell(f"{config.tls_dir} holds no certificate and key of {', '.join(unknown)}")
        )
    issuing = fingerprint(keystore.read_roots(config.tls_dir)[0])
    failed: list[str] = []
    for path in [held[name] for name in dict.fromkeys(names)] or held.values():
        try:
            identity = _read(config, path)
            if names or every or now_ms >= identity.renew_after_ms or identity.root != issuing:
                write_certificate(path, _renewed(config, identity))
                click.echo(f"renewed  {path}")
            else:
                click.echo(f"kept     {path}")
        except (MeshError, click.ClickException) as error:
            failed.append(f"{path.name}: {error}")
    if failed:
        raise click.ClickException("; ".join(failed))


def passphrase_of(config: Config) -> str | None:
    """Returns what opens the CA's key, if it is set."""
    return config.ca_passphrase.reveal() if config.ca_passphrase else None


def _sign_request(
    config: Config,
    csr: Path,
    owner: tuple[SignerKind, str],
    sans: tuple[str, ...],
    terms: _Terms,
    out: Path | None,
) -> None:
    """Signs a request that somebody brought, and prints the certificate or writes it to a directory."""
    requested = read_request(csr.read_text("ascii", "replace"), config.mesh)
    if (requested.kind, requested.name) != owner:
        asked = f"{requested.kind} {requested.name}"
        raise PkiError(f"{csr}: is a request for {asked}, not for {owner[0]} {owner[1]}")
    dns_names, addresses = keystore.split_names(sans)
    named = replace(
        requested,
        dns_names=tuple(dict.fromkeys((*requested.dns_names, *dns_names))),
        ip_addresses=tuple(dict.fromkeys((*requested.ip_addresses, *addresses))),
    )
    certificate = _signed(config, named, terms)
    if out is None:
        click.echo(certificate.public_bytes(Encoding.PEM).decode(), nl=False)
        return
    with locked(out):
        write_certificate(path := out / f"{requested.name}.crt", certificate)
    click.echo(f"made  {path}")


def _signed(config: Config, requested: RequestedIdentity, terms: _Terms) -> x509.Certificate:
    """Returns a certificate from the CA's key here, once it is in the ledger."""
    request = CertificateRequest(
        kind=requested.kind,
        name=requested.name,
        public_key=requested.public_key,
        dns_names=requested.dns_names,
        ip_addresses=requested.ip_addresses,
        allow=terms.allow,
        lifetime_s=terms.lifetime_s,
        backdate_s=terms.backdate_s,
    )
    issued = _issuing(config).issue(request, SystemClock().now_ms())
    return x509.load_der_x509_certificate(issued.der)


def _issuing(config: Config) -> Issuing:
    return Issuing(config.tls_dir, config.mesh, config.node, passphrase_of(config))


def _place(config: Config, kind: SignerKind, name: str, out: Path | None) -> Path:
    """Returns where a certificate goes; its key goes beside it."""
    if out is not None:
        return out / f"{name}.crt"
    if kind == "operator":
        return config.tls_dir / OPERATOR_CERTIFICATE
    return config.tls_dir / (keystore.SERVICES_DIR if kind == "service" else _NODES_DIR) / f"{name}.crt"


def _key_at(path: Path, *, force: bool) -> ec.EllipticCurvePrivateKey:
    """Returns the key of a file, or a new one that is in no file yet."""
    if path.exists() and not force:
        return read_key(path)
    return ec.generate_private_key(ec.SECP256R1())


def _read(config: Config, path: Path) -> Identity:
    certificate, key = read_certificates(path)[0], read_key(path.with_suffix(".key"))
    roots = keystore.read_roots(config.tls_dir)
    try:
        kind = Trust(config.mesh, roots).admit(certificate.public_bytes(Encoding.DER)).kind
    except UntrustedIssuer as error:
        raise PkiError(str(error)) from None
    return verified_identity(config.mesh, None, roots, certificate, key, kind)


def _renewed(config: Config, identity: Identity) -> x509.Certificate:
    """Returns a certificate for the same holder, names, key, limits and time as before."""
    kind, name = identity.kind, identity.name
    request = renewal_request(config.mesh, identity)
    if keystore.has_authority(config.tls_dir):
        terms = _Terms(patterns_of(identity.certificate), _lifetime_s(config, identity), None)
        return _signed(config, read_request(request, config.mesh), terms)
    pem = identity.certificate.public_bytes(Encoding.PEM).decode()
    return _from_agent(config, "/api/renew", {"certificate": pem, "csr": request}, (kind, name), identity.key)


def _lifetime_s(config: Config, identity: Identity) -> int:
    """Returns for how long a certificate was issued; of one that is in no ledger, without its backdate."""
    recorded = _issuing(config).ledger.certificate(fingerprint(identity.certificate))
    begin = identity.certificate.not_valid_before_utc
    whole_s = int((identity.certificate.not_valid_after_utc - begin).total_seconds())
    if recorded is None:
        return max(60, whole_s - BACKDATE_S)
    return min(LIFETIME_MAX_S, -(-(recorded.not_after_ms - recorded.issued_ms) // 1000))


def _from_agent(
    config: Config,
    path: str,
    body: dict[str, str],
    owner: tuple[SignerKind, str],
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Returns what this host's agent had certified, once it is known to be what was asked for."""
    secret = config.data_dir / LOCAL_FILE
    try:
        shown = Secret(secret.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError):
        raise PkiError(f"{secret} cannot be read: is the agent of this host running, as this user?") from None
    answer = AgentClient(replace(config, http_token=shown)).post(path, body)
    pem = answer.fields.get("certificate")
    try:
        certificate = x509.load_pem_x509_certificate(str(pem).encode())
    except ValueError:
        raise PkiError("the agent answered without a certificate") from None
    roots = keystore.read_roots(config.tls_dir)
    return verified_identity(config.mesh, owner[1], roots, certificate, key, owner[0]).certificate
