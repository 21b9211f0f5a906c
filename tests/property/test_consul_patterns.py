"""Regular expressions of filters: held to Python's own, and bounded where Python's are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.pattern import Pattern

texts = st.text(alphabet="abc1-. ", max_size=12)
atoms = st.sampled_from(["a", "b", "c", "1", "-", r"\.", ".", "[ab]", "[^a]", r"\d", r"\w", r"\s", "[a-c1]"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.builds(
        "(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "*?"])
    )
    return st.one_of(
        repeated, st.builds("{}{}".format, inner, inner), st.builds("({}|{})".format, inner, inner)
    )


patterns = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "^"]),
    st.recursive(atoms, grown, max_leaves=6).map("(?:{})".format),
    st.sampled_from(["", "$"]),
)


@given(pattern=patterns, text=texts)
def test_a_pattern_is_found_where_pythons_own_finds_it(pattern: str, text: str):
    expected = re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None
    assert Pattern(pattern).found_in(text) == expected


@given(pattern=st.text(alphabet="ab^$|()[]{}*+?\\.1,:-", max_size=16), text=texts)
def test_whatever_is_sent_is_a_pattern_or_refused(pattern: str, text: str):
    try:
        found = Pattern(pattern)
    except InvalidFieldError:
        return
    found.found_in(text)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a*)*b", "(a|a)*b", "a{100}a{100}b"])
def test_a_pattern_that_has_too_many_ways_costs_no_more_than_another(pattern: str):
    begin_s = SystemClock().monotonic_s()
    assert not Pattern(pattern).found_in("a" * 5000 + "!")
    assert SystemClock().monotonic_s() - begin_s < 2


def test_case_can_be_ignored():
    assert Pattern("(?i)WEB").found_in("my-web-1")
