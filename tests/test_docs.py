"""The pages in docs/, held to what they say."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECURITY = (ROOT / "docs" / "security.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NOT_PROMISED = "Not promised"
THREATS = (
    "A stranger on the network",
    "A stolen node",
    "A node that declares others lost, or floods the stream",
    "A malicious service on a good node",
    "A stolen NATS password",
    "A web page",
)


def sections() -> dict[str, str]:
    """Returns the text below each heading of the security page."""
    parts = re.split(r"^## (.+)$", SECURITY, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def promises() -> list[tuple[str, str, str]]:
    """Returns the rows of every table, without its head."""
    rows = [line.strip("|").split("|") for line in SECURITY.splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    assert {len(row) for row in cells} == {3}
    return [(row[0], row[1], row[2]) for row in cells if row[2] not in {"Shown by", "---"}]


@cache
def names_in(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)
    )


def test_the_security_page_speaks_of_every_threat_and_of_what_is_not_promised():
    assert tuple(sections()) == (*THREATS, NOT_PROMISED)
    assert sections()[NOT_PROMISED].count("\n- ") > 5


@pytest.mark.parametrize("threat", THREATS)
def test_every_threat_has_a_promise(threat: str):
    assert TEST_NAME.search(sections()[threat])


def test_every_promise_names_a_test_and_how_it_is_kept():
    assert not [what for what, how, shown in promises() if not what or not how or not TEST_NAME.search(shown)]


def test_nothing_that_is_not_promised_names_a_test():
    assert not TEST_NAME.search(sections()[NOT_PROMISED])


def test_every_test_named_in_the_security_page_exists():
    named = TEST_NAME.findall(SECURITY)
    assert len(named) > 40
    assert not [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / path)]


def test_nothing_but_the_names_of_tests_stands_where_they_are_named():
    for what, _, shown in promises():
        assert TEST_NAME.sub("", shown).strip(", ") == "", what


def test_every_test_named_in_the_reliability_page_exists():
    named = TEST_NAME.findall(RELIABILITY)
    assert len(named) > 8
    assert not [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / path)]
