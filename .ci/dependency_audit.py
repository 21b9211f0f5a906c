"""Asks whether a pinned dependency has a known vulnerability, where the network allows it.

Exits with 1 only if one has. Where nobody can be asked, it says so in one line and exits with 0:
a build without a network must not fail for that. pip-audit is happy when it could ask about
nothing at all, so one dependency is tried first, and an empty report is not taken for a clean one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SERVICES: Final = ("pypi", "osv")
LOCKS: Final = (Path("deploy/locks/runtime.txt"), Path("deploy/locks/dev.txt"))
PROBE_S: Final = 20.0
LIMIT_S: Final = 120.0
_PIN: Final = re.compile(r"^[a-z0-9][^ ;]*==[^ ;\\]+", re.MULTILINE)


class NotAskedError(Exception):
    """Nobody could be asked; says why."""


def audit(service: str, files: Sequence[Path], limit_s: float, *options: str) -> list[dict[str, Any]]:
    """Returns what a vulnerability service knows of the dependencies in requirements files.

    Raises:
        NotAskedError: if it cannot be asked, or does not answer within `limit_s` seconds.
    """
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--disable-pip", "--progress-spinner", "off", "--timeout", "10", "--desc", "off", *options]
    for file in files:
        command += ["--requirement", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        raise NotAskedError(f"no answer within {limit_s:.0f} s") from None
    except (ValueError, KeyError, TypeError):
        last_words = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        raise NotAskedError(last_words[-1][:120]) from None
    if not any("vulns" in one for one in dependencies):
        raise NotAskedError(next((one["skip_reason"] for one in dependencies), "it knows no dependency"))
    return dependencies


def audit_locks() -> tuple[str, list[dict[str, Any]]]:
    """Returns the first service that can be asked, and what it knows of everything that is pinned.

    Raises:
        NotAskedError: if none can; says why for each.
    """
    problems = []
    for service in SERVICES:
        try:
            _probe(service)
            return service, audit(service, LOCKS, LIMIT_S)
        except NotAskedError as error:
            problems.append(f"{service}: {error}")
    raise NotAskedError("; ".join(problems))


def _probe(service: str) -> None:
    """Asks about one dependency, so that no network costs a second, and nobody a hundred requests."""
    pin = _PIN.search(LOCKS[0].read_text())
    if pin is None:
        raise NotAskedError(f"nothing is pinned in {LOCKS[0]}")
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.txt"
        one.write_text(f"{pin[0]}\n")
        audit(service, [one], PROBE_S, "--no-deps")


def main() -> int:
    """Audits the locks of the current folder."""
    try:
        service, dependencies = audit_locks()
    except NotAskedError as error:
        print(f"dependency audit skipped: {error}")
        return 0
    unknown = sum("skip_reason" in one for one in dependencies)
    known = len(dependencies) - unknown
    vulnerable = [(one, flaw) for one in dependencies for flaw in one.get("vulns", ())]
    for one, flaw in vulnerable:
        fixed = ", ".join(flaw.get("fix_versions") or ()) or "no release yet"
        print(f"{one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    print(
        f"dependency audit by {service}: {known} known, {unknown} unknown, {len(vulnerable)} vulnerabilities"
    )
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
