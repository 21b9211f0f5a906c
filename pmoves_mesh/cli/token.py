"""`token`: lets another host join, on the host that keeps the CA."""

from __future__ import annotations

from typing import Any, Final

import click

from pmoves_mesh.agent.trust.joining import ca_urls, check_reachable
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, cell, example, print_json, print_table
from pmoves_mesh.cli.durations import Duration, shown_duration
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.limits import parse_patterns
from pmoves_mesh.core.names import parse_label
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import PkiError
from pmoves_mesh.pki import keystore, tokens
from pmoves_mesh.pki.authority import LIFETIME_MAX_S
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.identity import verified_identity
from pmoves_mesh.store.ledger import LEDGER_FILE, Ledger, StoredToken

_TTL_S: Final = 900
_TTL_MAX_S: Final = 7 * 86_400
_COLUMNS: Final = (
    Column("ID", "id"),
    Column("STATE", "state"),
    Column("NODE", "node"),
    Column("ALLOW", "allow"),
    Column("CREATED", "created"),
    Column("EXPIRES", "expires"),
    Column("USED BY", "used_by"),
)


@click.group("token", epilog=example("pmoves-mesh token create", "pmoves-mesh token list"))
def token_command() -> None:
    """Let another host join the mesh, on the host that keeps the CA."""


@token_command.command(
    "create",
    epilog=example(
        "pmoves-mesh token create", "pmoves-mesh token create --node jetson --ttl 1h --allow 'whisper-*'"
    ),
)
@click.option(
    "--node", help="Only this node may join with it, even if one of that name is there. Default: any."
)
@click.option("--ttl", type=Duration(1, _TTL_MAX_S), default=shown_duration(_TTL_S), show_default=True)
@click.option(
    "--allow", multiple=True, help="Service names the node may register; may be repeated. Default: any."
)
@click.option(
    "--lifetime", type=Duration(10, LIFETIME_MAX_S), help="Of the node's certificate. Default: 30d."
)
@click.option("--local", is_flag=True, help="For another agent on this very machine.")
def create_command(
    *, node: str | None, ttl: int, allow: tuple[str, ...], lifetime: int | None, local: bool
) -> None:
    """Print a token, with which one other host can join the mesh once.

    Whoever has it can join: pass it on as you would a password. The agent of this host must run.
    """
    config = read_config()
    allowed, name = parse_patterns(allow), parse_label(node, "node") if node else ""
    if not keystore.has_authority(config.tls_dir):
        raise PkiError(
            f"{config.tls_dir / keystore.CA_KEY} is not here: create the token on the host that keeps the "
            f"CA, or begin a mesh here with: pmoves-mesh up"
        )
    check_reachable(config, local=local)  # or whoever joins would be told an address that leads nowhere
    urls = ca_urls(config, local=local)[: tokens.URLS_MAX]
    made = tokens.new_token(config.mesh, urls, _shown_root(config), config.node, name)
    now_ms = SystemClock().now_ms()
    _ledger(config).add_token(
        StoredToken(
            id=made.id,
            hash=tokens.hashed(made.secret),
            node=name or None,
            allow=allowed,
            lifetime_s=lifetime,
            created_ms=now_ms,
            expires_ms=now_ms + ttl * 1000,
        )
    )
    click.echo(made.encode())
    whom = f"node {name}" if name else "one host"
    click.echo(f"lets {whom} join until {iso(now_ms + ttl * 1000)}; there: pmoves-mesh join TOKEN", err=True)


@token_command.command("list", epilog=example("pmoves-mesh token list", "pmoves-mesh token list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_command(*, as_json: bool) -> None:
    """List the tokens, never their secrets: those are kept nowhere."""
    ledger, now_ms = _ledger(read_config()), SystemClock().now_ms()
    shown = [_described(ledger, token, now_ms) for token in ledger.tokens()]
    if as_json:
        print_json(shown)
    else:
        print_table(_COLUMNS, shown, empty="no tokens; create one with: pmoves-mesh token create")


@token_command.command("revoke", epilog=example("pmoves-mesh token revoke 1f2e3d4c5b6a"))
@click.argument("token_id", metavar="ID")
def revoke_command(*, token_id: str) -> None:
    """Withdraw a token, so that nobody can join with it any more; who has joined stays."""
    if not _ledger(read_config()).drop_token(token_id):
        raise click.ClickException(cell(f"there is no token {token_id}; see: pmoves-mesh token list"))
    click.echo(cell(f"withdrawn: {token_id}"))


def _ledger(config: Config) -> Ledger:
    return Ledger(config.tls_dir / LEDGER_FILE)


def _shown_root(config: Config) -> str:
    """Returns the fingerprint of the CA certificate that vouches for what this agent shows over HTTPS.

    While the CA is rotated that may be another one than the one that issues.
    """
    roots = keystore.read_roots(config.tls_dir)
    directory = config.data_dir / IDENTITY_DIR
    if not (directory / keystore.IDENTITY_CERTIFICATE).exists():
        return fingerprint(roots[0])
    certificate = read_certificates(directory / keystore.IDENTITY_CERTIFICATE)[0]
    key = read_key(directory / keystore.IDENTITY_KEY)
    return verified_identity(config.mesh, config.node, roots, certificate, key).root


def _described(ledger: Ledger, token: StoredToken, now_ms: int) -> dict[str, Any]:
    used = ledger.certificate(token.used_by) if token.used_by else None
    state = "used" if token.used_ms is not None else "open" if now_ms < token.expires_ms else "expired"
    return {
        "id": token.id,
        "state": state,
        "node": token.node,
        "allow": list(token.allow),
        "created": iso(token.created_ms),
        "expires": iso(token.expires_ms),
        "used_by": used.name if used else None,
    }
