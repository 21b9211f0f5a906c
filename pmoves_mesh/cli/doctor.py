"""`doctor`: everything that may be wrong with this host's part of the mesh, and what to do about it."""

from __future__ import annotations

from typing import Final

import click

from pmoves_mesh.cli import check_agent, check_files
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import Column, example, print_json, print_table
from pmoves_mesh.cli.findings import Finding, Host, run_checks
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import ConfigError

_COLUMNS: Final = (
    Column("SEVERITY", "severity"),
    Column("CHECK", "check"),
    Column("WHAT", "what"),
    Column("WHAT TO DO", "remedy"),
)


@click.command(
    "doctor", epilog=example("pmoves-mesh doctor", "pmoves-mesh doctor --json | jq '.findings[0]'")
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(*, as_json: bool) -> None:
    """Check this host: its settings, certificates and keys, its agent, NATS, disk and clock.

    It changes nothing. It exits with 0 if there is no alarm, and with 1 if there is one.
    """
    findings = examine()
    if as_json:
        print_json({"findings": [finding._asdict() for finding in findings], "worst": findings[0].severity})
    else:
        print_table(_COLUMNS, (finding._asdict() for finding in findings), empty="nothing was checked")
    alarms = sum(finding.severity == "alarm" for finding in findings)
    if alarms:
        raise click.ClickException(
            f"{alarms} alarm{'s' if alarms > 1 else ''}; the first: {findings[0].what}"
        )


def examine() -> list[Finding]:
    """Returns what every check found, the worst first; with unusable settings only that."""
    try:
        config = read_config()
    except ConfigError as error:
        remedy = f"set {error.variable} anew, in the environment or in env.shared, then run it again"
        return [Finding("settings", "alarm", str(error), remedy)]
    host = Host(config=config, now_ms=SystemClock().now_ms(), agent=check_agent.ask_agent(config))
    settings = Finding("settings", "ok", f"node {config.node} of mesh {config.mesh}", "")
    return [*run_checks(host, (*check_files.CHECKS, *check_agent.CHECKS)), settings]
