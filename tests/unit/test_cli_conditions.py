"""Conditions as they are typed: what each becomes, and what is none."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.cli.conditions import parse_conditions
from pmoves_mesh.core.where import parse_where


@pytest.mark.parametrize(
    ("text", "path", "condition"),
    [
        ("resources.gpu.memory_gb>=8", "resources.gpu.memory_gb", {"gte": 8}),
        ("resources.gpu.memory_gb > 7.5", "resources.gpu.memory_gb", {"gt": 7.5}),
        ("port<=9000", "port", {"lte": 9000}),
        ("port<9000", "port", {"lt": 9000}),
        ("mode=docked", "mode", {"eq": "docked"}),
        ("mode==docked", "mode", {"eq": "docked"}),
        ("mode!=docked", "mode", {"ne": "docked"}),
        ("verified=true", "verified", {"eq": True}),
        ('metadata.version="3"', "metadata.version", {"eq": "3"}),
        ("metadata.version=1.2.3", "metadata.version", {"eq": "1.2.3"}),
        ("metadata.odd=NaN", "metadata.odd", {"eq": "NaN"}),
        ("metadata.list=[1]", "metadata.list", {"eq": "[1]"}),
        ("metadata.none=null", "metadata.none", {"eq": "null"}),
        ("resources.arch in amd64, arm64", "resources.arch", {"in": ["amd64", "arm64"]}),
        ("resources.gpu", "resources.gpu", {"exists": True}),
        ("!resources.gpu", "resources.gpu", {"exists": False}),
    ],
)
def test_a_condition_becomes_what_the_agent_takes(text: str, path: str, condition: dict[str, object]):
    assert parse_conditions([text]) == {path: condition}
    assert parse_where(parse_conditions([text]))


def test_conditions_on_one_path_are_put_together():
    assert parse_conditions(["port>=80", "port<90", "mode=docked"]) == {
        "port": {"gte": 80, "lt": 90},
        "mode": {"eq": "docked"},
    }


@pytest.mark.parametrize(
    "texts", [[""], ["=8"], ["port=>8"], ["port="], ["a b"], ["port in"], ["port>1", "port>2"]]
)
def test_what_is_no_condition_is_refused_by_its_words(texts: list[str]):
    with pytest.raises(click.BadParameter) as refused:
        parse_conditions(texts)
    assert repr(texts[-1]) in refused.value.message


@given(st.lists(st.text(max_size=20), max_size=3))
def test_whatever_is_typed_is_a_condition_or_wrong_usage(texts: list[str]):
    try:
        found = parse_conditions(texts)
    except click.BadParameter:
        found = {}
    assert len(found) <= len(texts)
