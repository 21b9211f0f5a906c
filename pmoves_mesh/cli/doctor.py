"""`doctor`: everything that may be wrong with this host's part of the mesh, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final, NoReturn

import click

from pmoves_mesh.cli import (
    check_agent,
    check_files,
    check_firewall,
    check_leaf,
    check_membership,
    check_network,
    check_stream,
    check_tailscale,
    check_tls,
)
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import cell, example, print_json
from pmoves_mesh.cli.findings import WITHIN_S, Check, Errand, Finding, Host, run_checks
from pmoves_mesh.cli.streams import only_errors
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import ConfigError
from pmoves_mesh.log.survey import Survey

CHECKS: Final[tuple[Check, ...]] = (
    *check_files.CHECKS,
    *check_agent.CHECKS,
    *check_stream.CHECKS,
    *check_membership.CHECKS,
    *check_tls.CHECKS,
    *check_tailscale.CHECKS,
    *check_network.CHECKS,
    *check_firewall.CHECKS,
    *check_leaf.CHECKS,
)
_NOT_SAID: Final = Survey(
    problem="NATS did not say how it is in time", remedy="see that it is not overloaded"
)


@click.command(
    "doctor", epilog=example("pmoves-mesh doctor", "pmoves-mesh doctor --json | jq '.findings[0]'")
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(*, as_json: bool) -> None:
    """Check this host and its way to the others, and say what to do about what is wrong.

    It looks at the settings, certificates, keys and disk, asks the agent and NATS, and tries the
    addresses of the other nodes and of their services, for 10 seconds at most. It changes nothing. It
    exits with 0 if there is no alarm, and with 1 if there is one.
    """
    only_errors()
    findings = examine()
    if as_json:
        print_json({"findings": [finding._asdict() for finding in findings], "worst": findings[0].severity})
    else:
        _print(findings)
    alarms = sum(finding.severity == "alarm" for finding in findings)
    problem = f"{alarms} alarm{'s' if alarms > 1 else ''}; the first: {findings[0].what}"
    if Errand.any_left_behind():
        _end_now(problem if alarms else "")
    if alarms:
        raise click.ClickException(problem)


def _end_now(problem: str) -> NoReturn:
    """Ends the process at once: an interpreter's own end waits for names to be looked up, a minute maybe."""
    if problem:
        click.echo(f"pmoves-mesh: {problem}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if problem else 0)


def examine() -> list[Finding]:
    """Returns what every check found, the worst first; with unusable settings only that."""
    try:
        config = read_config()
    except ConfigError as error:
        remedy = f"set {error.variable} anew, in the environment or in env.shared, then run it again"
        return [Finding("settings", "alarm", str(error), remedy)]
    clock = SystemClock()
    give_up_s = clock.monotonic_s() + WITHIN_S
    surveying = Errand(lambda: check_stream.survey_of(config, clock))
    asking = Errand(lambda: check_agent.ask_agent(config))
    agent = asking.result(give_up_s - clock.monotonic_s()) or check_agent.silent(config)
    nats = surveying.result(give_up_s - clock.monotonic_s()) or _NOT_SAID
    if not agent.alive and nats.asked and not nats.problem:
        replaying = Errand(lambda: check_membership.told_by_the_stream(config, agent))
        agent = replaying.result(give_up_s - clock.monotonic_s()) or agent
    host = Host(config=config, now_ms=clock.now_ms(), agent=agent, nats=nats)
    settings = Finding("settings", "ok", f"node {config.node} of mesh {config.mesh}", "")
    return [*run_checks(host, CHECKS), settings]


def _print(findings: Iterable[Finding]) -> None:
    """Prints a line for each finding, and under one that is not well what to do about it."""
    findings = list(findings)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.severity:<7}  {finding.check:<{width}}  {cell(finding.what)}")
        if finding.remedy:
            click.echo(f"{'':<7}  {'':<{width}}  -> {cell(finding.remedy)}")
