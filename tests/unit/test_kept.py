"""What was asked for twice is kept within its bounds, and the longest unasked goes first."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.views.http.kept import Kept


class Thing(NamedTuple):
    """Something of a size."""

    size: int


def kept_twice(kept: Kept[str, Thing], key: str, size: int) -> Thing:
    thing = Thing(size)
    kept.put(key, thing)
    kept.put(key, thing)
    return thing


def test_what_is_put_once_is_not_kept_and_what_is_put_again_is():
    kept: Kept[str, Thing] = Kept(100)
    kept.put("a", Thing(1))
    assert kept.get("a") is None
    again = Thing(1)
    kept.put("a", again)
    assert kept.get("a") is again
    assert (len(kept), kept.bytes) == (1, 1)


def test_who_asks_for_everything_in_turn_displaces_nothing():
    kept: Kept[str, Thing] = Kept(100)
    often = kept_twice(kept, "often", 40)
    for number in range(20_000):
        kept.put(f"{number}", Thing(40))
    assert kept.get("often") is often
    assert len(kept) == 1


def test_the_longest_unasked_goes_first():
    kept: Kept[str, Thing] = Kept(8)
    for key in "abcd":
        kept_twice(kept, key, 1)
    kept_twice(kept, "e", 1)  # the younger half was full
    assert kept.get("a") is not None
    for key in "fgh":
        kept_twice(kept, key, 1)
    assert [key for key in "abcdefgh" if kept.get(key) is not None] == list("aefgh")


def test_what_would_take_half_of_all_is_not_kept():
    kept: Kept[str, Thing] = Kept(10)
    kept_twice(kept, "a", 6)
    assert (len(kept), kept.bytes) == (0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["get", "put", "drop", "clear"]), st.sampled_from("abcdef"), st.integers(0, 8)
        )
    )
)
def test_its_bounds_hold_and_its_sum_is_right_whatever_is_done(steps: list[tuple[str, str, int]]):
    kept: Kept[str, Thing] = Kept(12)
    latest: dict[str, Thing] = {}
    for step, key, size in steps:
        match step:
            case "get":
                found = kept.get(key)
                assert found is None or found is latest[key]
            case "put" if kept.get(key) is None:
                latest[key] = Thing(size)
                kept.put(key, latest[key])
            case "drop":
                kept.drop(key)
                assert kept.get(key) is None
            case "clear":
                kept.clear()
        assert kept.bytes <= 12
        # Asking for each changes only which goes first.
        held = [kept.get(one) for one in "abcdef"]
        assert kept.bytes == sum(one.size for one in held if one is not None)
        assert len(kept) == sum(one is not None for one in held)
