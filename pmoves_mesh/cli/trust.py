"""`certs revoke`: ends certificates in the running mesh."""

from __future__ import annotations

import click

from pmoves_mesh.agent import operator, revocation
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, cell, example, print_json, print_table
from pmoves_mesh.cli.decrees import decree
from pmoves_mesh.cli.streams import only_errors
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.query import iso
from pmoves_mesh.store.ledger import LEDGER_FILE, IssuedCertificate, Ledger

_COLUMNS = (
    Column("FINGERPRINT", "fingerprint"),
    Column("IDENTITY", "identity"),
    Column("UNTIL", "not_after"),
)


@click.command(
    "revoke",
    epilog=example(
        "pmoves-mesh certs revoke jetson --reason stolen",
        "pmoves-mesh certs revoke service/whisper",
        "pmoves-mesh certs revoke 3f5a90c2d1e8",
    ),
)
@click.argument("who", metavar="NAME|FINGERPRINT")
@click.option("--reason", default="", help="Why, for whoever reads the stream.")
@click.option("--yes", is_flag=True, help="Even if it is this very host's identity.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def revoke_command(*, who: str, reason: str, yes: bool, as_json: bool) -> None:
    """Revoke a certificate, or every one of a node, a service or an operator.

    Within a second no host believes what they sign, and what they registered is no longer
    discovered. It cannot be taken back: whoever is to return needs a new certificate.
    """
    only_errors()
    config = read_config()
    now_ms = SystemClock().now_ms()
    ledger = Ledger(config.tls_dir / LEDGER_FILE)
    known = [*revocation.run(config), *(_issued(config.mesh, one) for one in ledger.certificates())]
    found = revocation.chosen(who, config.mesh, known, now_ms)
    own = spiffe_id(config.mesh, "node", config.node)
    if not yes and any(one.identity == own for one in found):
        raise click.ClickException(f"{who} is this very host: the mesh would shut it out; say --yes to do it")
    # The ledger first: whatever follows, no new certificate is given for these keys.
    with_keys = ledger.revoke([one.fingerprint for one in found], now_ms)
    found += [_issued(config.mesh, one) for one in with_keys]
    found = list({one.fingerprint: one for one in found}.values())[: operator.FINGERPRINTS_MAX]
    done = decree(config, operator.revoke([one.fingerprint for one in found], reason=reason))
    revoked = [
        {
            "fingerprint": one.fingerprint,
            "identity": one.identity,
            "not_after": iso(one.not_after_ms) if one.not_after_ms else "",
        }
        for one in found
    ]
    if as_json:
        print_json({"revoked": revoked, "position": done.position})
        return
    print_table(_COLUMNS, revoked, empty="")
    click.echo(cell(f"revoked: {len(revoked)} ({done})"))


def _issued(mesh: str, certificate: IssuedCertificate) -> revocation.Shown:
    return revocation.Shown(
        identity=f"spiffe://{mesh}/{certificate.kind}/{certificate.name}",
        fingerprint=certificate.fingerprint,
        not_after_ms=certificate.not_after_ms,
    )
