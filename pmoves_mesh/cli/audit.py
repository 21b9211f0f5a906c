"""`audit`: is the mesh's past still what its nodes and operators wrote?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click
import msgspec

from pmoves_mesh.agent import audit
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, cell, example, print_json, print_table
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.cli.streams import only_errors
from pmoves_mesh.core.audit import Finding, Report

_KINDS: Final = (Column("EVENT", "name"), Column("COUNT", "count"))
_SIGNERS: Final = (Column("SIGNER", "name"), Column("COUNT", "count"))
_FINDINGS: Final = (
    Column("POSITION", "position"),
    Column("REASON", "reason"),
    Column("EVENT", "subject"),
    Column("SIGNER", "signer"),
    Column("DETAIL", "detail"),
)
_SHOWN_MAX: Final = 20


@click.command("audit", epilog=example("pmoves-mesh audit", "pmoves-mesh audit --json | jq .findings"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def audit_command(*, as_json: bool) -> None:
    """Check every signature, certificate and link of the stream, from its first event to its last.

    It trusts nothing but the CA in PMOVES_TLS_DIR, and exits with 1 if anything is wrong: an
    event that is forged, changed, missing, out of its order, or of somebody who may not say that.
    """
    only_errors()
    with shown_progress(as_json=as_json) as progress:
        report = audit.run(read_config(), progress)
    if as_json:
        print_json({"sound": report.sound, **msgspec.to_builtins(report)})
    else:
        _print_report(report)
    if not report.sound:
        raise click.ClickException(_in_words(report))


def _print_report(report: Report) -> None:
    click.echo(f"walked {report.events} events, positions {report.first} to {report.last}\n")
    print_table(_KINDS, _counts(report.kinds), empty="no events")
    click.echo()
    print_table(_SIGNERS, _counts(report.signers), empty="no signers")
    for beginning in report.beginnings:
        click.echo(
            "\n" + cell(f"position {beginning.position}: {beginning.node} began anew, as after a lost disk")
        )
    if report.sound:
        click.echo("\nsound: every event is signed by whoever may state it, and no link is missing")
        return
    click.echo()
    print_table(_FINDINGS, map(msgspec.structs.asdict, report.findings[:_SHOWN_MAX]), empty="")


def _counts(counts: Mapping[str, int]) -> list[dict[str, object]]:
    return [{"name": name or "nobody (unsigned)", "count": count} for name, count in counts.items()]


def _in_words(report: Report) -> str:
    first: Finding = report.findings[0]
    total = sum(report.reasons.values())
    more = f" (and {total - 1} more)" if total > 1 else ""
    return cell(
        f"not sound: position {first.position}, {first.subject} by {first.signer}: "
        f"{first.reason}: {first.detail}{more}"
    )
