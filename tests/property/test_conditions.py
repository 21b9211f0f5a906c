"""Conditions, whatever is asked of whatever is there: laws that hold for every value."""

from __future__ import annotations

from functools import cache
from typing import Any

from builders import Story, announced, instance, registered
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.where import OPERATORS, Where, parse_where
from pmoves_mesh.errors import InvalidFieldError

SCALARS = st.one_of(
    st.text(max_size=8),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
NUMBERS = st.one_of(st.integers(-1000, 1000), st.floats(-1000, 1000))
JSON = st.recursive(
    st.none() | SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
PATHS = st.sampled_from(
    ["resources.gpu.memory_gb", "resources.gpu", "metadata.a.b", "name", "port", "capabilities"]
)
CONDITIONS = st.one_of(SCALARS, st.dictionaries(st.sampled_from(OPERATORS), JSON, max_size=3), JSON)


@cache
def story() -> Story:
    told = Story()
    told.tell(announced(1), registered(2, instance("rag", "alpha")))
    return told


def holds(where: Where, value: Any) -> bool:
    """Returns whether conditions on `resources.x` hold where this is the value."""
    node = story().registry.nodes["alpha"]
    assert node.announced is not None
    seen = type(node.announced)(
        mesh="m", node="alpha", incarnation=1, revision=1, host="h", resources={"x": value}
    )
    return where.holds_of_node(type(node)(name="alpha", announced=seen))


def compared(value: Any, **operators: Any) -> bool:
    return holds(parse_where({"resources.x": operators}), value)


@given(st.dictionaries(PATHS | st.text(max_size=12), CONDITIONS, max_size=5), JSON)
def test_whatever_is_asked_is_answered_or_refused_by_name(conditions: dict[str, Any], value: Any):
    fields: list[str] = []
    where = Where()
    try:
        where = parse_where(conditions)
    except InvalidFieldError as refused:
        fields.append(refused.field)
    assert all(field.startswith("where") for field in fields)
    assert holds(where, value) in {True, False}
    (entry,) = story().registry.entries()
    assert where.holds_of_instance(entry) in {True, False}


@given(SCALARS, SCALARS)
def test_a_bare_value_means_equal_and_what_is_not_equal_is_unequal(found: Any, wanted: Any):
    bare = holds(parse_where({"resources.x": wanted}), found)
    assert compared(found, eq=wanted) == bare
    assert compared(found, ne=wanted) != bare


@given(SCALARS)
def test_everything_equals_itself(value: Any):
    assert compared(value, eq=value)
    assert compared(value, exists=True)


@given(SCALARS, st.lists(SCALARS, min_size=1, max_size=5))
def test_one_of_several_is_equal_to_one_of_them(found: Any, wanted: list[Any]):
    assert compared(found, **{"in": wanted}) == any(compared(found, eq=one) for one in wanted)


@given(NUMBERS, NUMBERS)
def test_numbers_are_less_equal_or_greater_and_only_one_of_these(found: float, wanted: float):
    ways = [compared(found, lt=wanted), compared(found, eq=wanted), compared(found, gt=wanted)]
    assert ways.count(True) == 1
    assert compared(found, lte=wanted) == (ways[0] or ways[1])
    assert compared(found, gte=wanted) == (ways[2] or ways[1])


@given(st.lists(NUMBERS, max_size=5), NUMBERS)
def test_a_comparison_with_a_list_holds_if_it_holds_of_one_item(found: list[float], wanted: float):
    assert compared(found, gte=wanted) == any(compared(one, gte=wanted) for one in found)


@given(st.lists(NUMBERS, max_size=4), NUMBERS, NUMBERS)
def test_further_operators_let_less_through_and_must_all_hold_of_one_item(
    found: list[float], low: float, high: float
):
    both = compared(found, gte=low, lt=high)
    assert not both or (compared(found, gte=low) and compared(found, lt=high))
    assert both == any(low <= one < high for one in found)


@given(JSON)
def test_nothing_is_both_there_and_not_there(value: Any):
    assert compared(value, exists=True) != compared(value, exists=False)
