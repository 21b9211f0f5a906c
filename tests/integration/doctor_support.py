"""What tests of `doctor` share: running it on a host, and finding its lines."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from agents import AgentProcess

WITHIN_S = 14.0
"""Ten seconds of its own, and the start of an interpreter on a busy machine."""


@dataclass(frozen=True)
class Report:
    """What one run of doctor said.

    Attributes:
        code: its exit code.
        lines: the findings, as `--json` has them.
    """

    code: int
    lines: tuple[dict[str, Any], ...]

    def of(self, check: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["check"] == check]

    def complaint(self, check: str, severity: str, what: str) -> dict[str, Any]:
        """Returns the line of a check that complains of something; it must have a remedy."""
        found = [line for line in self.of(check) if line["severity"] == severity and what in line["what"]]
        assert found, f"{check} does not say {what!r} as {severity}: {self.of(check)}"
        assert found[0]["remedy"]
        return found[0]

    @property
    def alarms(self) -> set[str]:
        return {line["check"] for line in self.lines if line["severity"] == "alarm"}


def doctor(agent: AgentProcess, **settings: str) -> Report:
    """Runs doctor on a host, with more settings than its agent has, and checks what holds always."""
    own = dict(agent.settings)
    agent.settings |= settings
    try:
        begin_s = time.perf_counter()
        done = agent.run("doctor", "--json")
        took_s = time.perf_counter() - begin_s
    finally:
        agent.settings.clear()
        agent.settings |= own
    assert "Traceback" not in done.stderr
    report = Report(done.returncode, tuple(json.loads(done.stdout)["findings"]))
    assert took_s < WITHIN_S
    assert report.code == (1 if report.alarms else 0)
    return report
