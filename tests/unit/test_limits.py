"""The limits of a certificate: which service names its holder may state."""

from __future__ import annotations

import pytest

from pmoves_mesh.core.limits import allows, parse_patterns
from pmoves_mesh.errors import InvalidFieldError


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("whisper", "whisper", True),
        ("whisper", "whisper-2", False),
        ("whisper-*", "whisper-large", True),
        ("whisper-*", "whisper-", True),
        ("whisper-*", "whisper", False),
        ("*", "anything", True),
        ("*-gpu", "llm-gpu", True),
        ("*-gpu", "llm-gpu-2", False),
        ("a*b*c", "a-x-b-y-c", True),
        ("a*b*c", "a-x-c", False),
        ("ab*ba", "aba", False),
        ("a**b", "ab", True),
    ],
)
def test_a_star_stands_for_any_characters(pattern: str, name: str, *, allowed: bool):
    assert allows((pattern,), name) is allowed


def test_no_patterns_allow_every_name():
    assert allows((), "anything")


def test_one_pattern_of_several_is_enough():
    assert allows(("rag", "whisper-*"), "whisper-1")
    assert not allows(("rag", "whisper-*"), "llm")


def test_a_hostile_pattern_is_matched_in_linear_time():
    pattern = "*a" * 30 + "*"
    assert not allows((pattern,), "a" * 29 + "b" * 10_000)


@pytest.mark.parametrize("pattern", ["", "UPPER CASE", "a.b", "-a", "a" * 64, "a?b", "a[b]"])
def test_what_is_no_pattern_is_refused_by_name(pattern: str):
    with pytest.raises(InvalidFieldError, match="allow"):
        parse_patterns([pattern])


def test_patterns_are_lower_cased_and_listed_once():
    assert parse_patterns(["Whisper-*", "whisper-*", "rag"]) == ("whisper-*", "rag")


def test_more_than_32_patterns_are_refused():
    with pytest.raises(InvalidFieldError, match="33 given"):
        parse_patterns([f"p{number}" for number in range(33)])
