"""The dependency audit, with a pip-audit in the place of the real one that answers as the test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "dependency_audit.py"
STAND_IN = """
import json, os, sys
from pathlib import Path
with Path("asked").open("a") as asked:
    print(" ".join(sys.argv[1:]), file=asked)
service = sys.argv[sys.argv.index("--vulnerability-service") + 1]
answer = json.loads(os.environ["ANSWERS"])[service]
if answer is None:
    sys.exit("requests.exceptions.ConnectionError: no route to the service")
print(json.dumps({"dependencies": answer, "fixes": []}))
sys.exit(any(one.get("vulns") for one in answer))
"""
CLEAN = {"name": "click", "version": "8.3.1", "vulns": []}
UNKNOWN = {"name": "click", "skip_reason": "Dependency not found"}
VULNERABLE = {
    "name": "aiohttp",
    "version": "3.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.2"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


class Audit(NamedTuple):
    code: int
    lines: list[str]
    asked: list[str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    package = tmp_path / "stand_in" / "pip_audit"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    locks = tmp_path / "deploy" / "locks"
    locks.mkdir(parents=True)
    (locks / "runtime.txt").write_text("# pinned\nclick==8.3.1 \\\n    --hash=sha256:ab\n")
    (locks / "dev.txt").write_text("pytest==9.0 \\\n    --hash=sha256:cd\n")
    return tmp_path


def audit(tree: Path, **answers: list[Any] | None) -> Audit:
    environment = os.environ | {"PYTHONPATH": str(tree / "stand_in"), "ANSWERS": json.dumps(answers)}
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return Audit(done.returncode, done.stdout.splitlines(), (tree / "asked").read_text().splitlines())


def test_dependencies_without_a_known_vulnerability_pass(tree: Path):
    found = audit(tree, pypi=[CLEAN, UNKNOWN])
    assert found[:2] == (0, ["dependency audit by pypi: 1 known, 1 unknown, 0 vulnerabilities"])


def test_a_vulnerable_dependency_fails_and_is_named_with_what_fixes_it(tree: Path):
    found = audit(tree, pypi=[CLEAN, VULNERABLE])
    assert found[:2] == (
        1,
        [
            "aiohttp 3.1: PYSEC-1, fixed in 3.2",
            "aiohttp 3.1: PYSEC-2, fixed in no release yet",
            "dependency audit by pypi: 2 known, 0 unknown, 2 vulnerabilities",
        ],
    )


def test_both_locks_are_audited_after_one_dependency_was_tried(tree: Path):
    first, second = audit(tree, pypi=[CLEAN]).asked
    assert "one.txt" in first
    assert second.endswith("--requirement deploy/locks/runtime.txt --requirement deploy/locks/dev.txt")


def test_without_a_network_the_audit_passes_and_says_why_it_was_skipped(tree: Path):
    found = audit(tree, pypi=None, osv=None)
    reason = "requests.exceptions.ConnectionError: no route to the service"
    assert found[:2] == (0, [f"dependency audit skipped: pypi: {reason}; osv: {reason}"])
    assert len(found.asked) == 2


def test_a_service_that_knows_nothing_is_no_clean_bill(tree: Path):
    found = audit(tree, pypi=[UNKNOWN], osv=[])
    assert found[:2] == (
        0,
        ["dependency audit skipped: pypi: Dependency not found; osv: it knows no dependency"],
    )


def test_the_second_service_is_asked_where_the_first_cannot_be(tree: Path):
    found = audit(tree, pypi=None, osv=[VULNERABLE])
    assert found.code == 1
    assert found.lines[-1] == "dependency audit by osv: 1 known, 0 unknown, 2 vulnerabilities"
