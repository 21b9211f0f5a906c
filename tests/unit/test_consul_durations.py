"""Durations as Go writes them."""

from __future__ import annotations

import pytest

from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.durations import parse_duration


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("120000ms", 120.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("500us", 0.0005),
        ("0", 0.0),
        ("0s", 0.0),
        ("", 0.0),
        (" 5s ", 5.0),
        ("+5s", 5.0),
        (30_000_000_000, 30.0),
    ],
)
def test_a_duration_is_read(given: str | int, seconds: float):
    assert parse_duration(given, "ttl") == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["10", "s", "-5s", "5 s", "1d", "1e3s", "5s,", "٣s", -1])
def test_what_is_no_duration_is_refused_by_its_name(given: str | int):
    with pytest.raises(InvalidFieldError) as refused:
        parse_duration(given, "ttl")
    assert refused.value.field == "ttl"
