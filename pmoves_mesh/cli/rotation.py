"""`certs rotate`: a new CA for the running mesh, and who still has to follow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent import operator
from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.cli.decrees import decree
from pmoves_mesh.cli.durations import Duration
from pmoves_mesh.cli.issuance import passphrase_of
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.event import RetiredRoot
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.pki.rotation import Rotation, begin_rotation, finish_rotation

_POLL_S: Final = 0.25
_TIMEOUT_S: Final = 600


class _Mesh(NamedTuple):
    """What this host's agent knows of the rotation.

    Attributes:
        ca: fingerprints of the CA certificates that hold.
        retired: those that no longer do.
        roots: of each node that has not left: the CA certificate that its own chains to.
        lost: the nodes that do not answer.
    """

    ca: Sequence[str]
    retired: Sequence[RetiredRoot]
    roots: dict[str, str]
    lost: frozenset[str]


@click.command(
    "rotate", epilog=example("pmoves-mesh certs rotate", "pmoves-mesh certs rotate --without orin")
)
@click.option(
    "--without", "without", multiple=True, metavar="NODE", help="Leave a node behind: it has to join anew."
)
@click.option(
    "--timeout", type=Duration(1, 86400), default="10m", show_default=True, help="How long to wait for nodes."
)
def rotate_command(*, without: tuple[str, ...], timeout: int) -> None:
    """Give the mesh a new CA, while it runs.

    Old and new are trusted together until every node has a new certificate; then the old one is
    dropped. It shows the progress node by node, may be interrupted, and goes on when run again.
    """
    config = read_config()
    client = AgentClient(config)
    _ask(client)  # without an agent nobody could tell who has followed
    state = begin_rotation(config.tls_dir, config.mesh, SystemClock().now_ms(), passphrase_of(config))
    new, old = fingerprint(state.root), [fingerprint(root) for root in state.retiring]
    mesh = _ask(client)
    if new not in mesh.ca:
        done = decree(config, operator.rotate_roots(_pems(state.root, *state.retiring), mesh.retired), old[0])
        click.echo(cell(f"old and new CA are trusted together ({done})"))
    if _is_believed_beside(mesh, old) or new not in mesh.ca:
        _follow(client, new, frozenset(without), timeout)
        _drop_old(config, client, state, new)
    finish_rotation(config.tls_dir)
    click.echo(cell(f"the CA is now {new[:16]}... alone"))


def _is_believed_beside(mesh: _Mesh, old: Sequence[str]) -> bool:
    return any(root in mesh.ca for root in old)


def _drop_old(config: Config, client: AgentClient, state: Rotation, new: str) -> None:
    retired = [*_ask(client).retired, *(RetiredRoot(certificate=pem) for pem in _pems(*state.retiring))]
    done = decree(config, operator.rotate_roots(_pems(state.root), retired), new)
    click.echo(cell(f"the old CA is trusted no more ({done})"))


def _follow(client: AgentClient, new: str, without: frozenset[str], timeout_s: int) -> None:
    """Shows each node that has a new certificate, and returns when all have one.

    Raises:
        click.ClickException: if one still has none when the time is over.
    """
    clock = SystemClock()
    until_s = clock.monotonic_s() + timeout_s
    followed: set[str] = set()
    while True:
        mesh = _ask(client)
        for node in _new(mesh, new, followed):
            click.echo(cell(f"{node}  has a certificate of the new CA"))
            followed.add(node)
        waiting = sorted(set(mesh.roots) - followed - without)
        if not waiting:
            return
        if clock.monotonic_s() > until_s:
            names = ", ".join(f"{name} (lost)" if name in mesh.lost else name for name in waiting)
            raise click.ClickException(
                f"still on the old CA: {names}; run this again to go on, or leave one behind: --without NODE"
            )
        time.sleep(_POLL_S)


def _new(mesh: _Mesh, new: str, followed: set[str]) -> Iterator[str]:
    return (node for node, root in sorted(mesh.roots.items()) if root == new and node not in followed)


def _ask(client: AgentClient) -> _Mesh:
    trust, nodes = client.get("/api/trust"), client.get("/api/nodes").records("nodes")
    present = {str(node["name"]): str(node["status"]) for node in nodes if node.get("status") != "left"}
    roots = {
        str(one["name"]): str(one["root"]) for one in trust.records("certificates") if not one["revoked"]
    }
    revoked = {str(one["name"]) for one in trust.records("certificates") if one["revoked"]}
    return _Mesh(
        ca=[str(one) for one in trust.fields.get("ca", ())],
        retired=[_retired(one) for one in trust.records("retired")],
        roots={name: roots.get(name, "") for name in present if name not in revoked},
        lost=frozenset(name for name, status in present.items() if status == "lost"),
    )


def _retired(fields: dict[str, Any]) -> RetiredRoot:
    return RetiredRoot(certificate=str(fields["certificate"]), position=int(fields["position"]))


def _pems(*roots: x509.Certificate) -> list[str]:
    return [root.public_bytes(Encoding.PEM).decode() for root in roots]
