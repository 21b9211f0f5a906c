from __future__ import annotations

import time
from collections.abc import Iterator

import click
import pytest

from pmoves_mesh.cli.moments import Moment, shown_time


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("now", "now"),
        ("NOW", "now"),
        ("12345", "12345"),
        ("15m", "15m"),
        (" 7D ", "7d"),
        ("2026-11-23T06:00", "2026-11-23T05:00:00.000Z"),
        ("2026-11-23 06:00", "2026-11-23T05:00:00.000Z"),
        ("2026-07-23T06:00:30.5", "2026-07-23T04:00:30.500Z"),
        ("2026-11-23T06:00Z", "2026-11-23T06:00:00.000Z"),
        ("2026-11-23T06:00:00+09:00", "2026-11-22T21:00:00.000Z"),
        ("2026-11-23", "2026-11-22T23:00:00.000Z"),
    ],
)
def test_a_time_without_a_zone_is_of_this_host_s_zone(written: str, asked: str):
    assert Moment().convert(written, None, None) == asked


@pytest.mark.parametrize(
    "written", ["", "yesterday", "-1", "1.5", "1y", "٣", "06:00", "0001-01-01T00:00", "\x1b"]
)
def test_what_is_no_moment_is_refused_with_what_would_be_one(written: str):
    with pytest.raises(click.BadParameter, match="is not a time such as"):
        Moment().convert(written, None, None)


def test_a_time_is_shown_with_the_zone_that_it_is_shown_in():
    assert shown_time("2026-11-23T05:00:00.250Z") == "2026-11-23T06:00:00.250+01:00"


@pytest.mark.parametrize(("given", "shown"), [("soon", "soon"), ("", ""), (None, "")])
def test_what_is_no_time_is_shown_as_it_is(given: object, shown: str):
    assert shown_time(given) == shown
