"""Checks: what a caller may ask for, how often it is asked, and what is made of a record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import instance

from pmoves_mesh.agent import kept
from pmoves_mesh.core.check import (
    Check,
    CommandCheck,
    DockerCheck,
    GrpcCheck,
    HttpCheck,
    TcpCheck,
    TtlCheck,
    asks_alike,
    check_made,
    parse_check,
)
from pmoves_mesh.core.health import Pace
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registration import check_of, instance_of, parse_registration
from pmoves_mesh.errors import InvalidFieldError

URL = "http://10.0.0.9:1/healthz"
EVERY_KIND = (
    HttpCheck(expect_status=204, expect_body="well"),
    TcpCheck(port=1, interval_s=3, timeout_s=1, rise=1, fall=10),
    GrpcCheck(service="rag.Search"),
    CommandCheck(command=("ls", "a b")),
    DockerCheck(container="web-1"),
    TtlCheck(ttl_s=30),
)


def registered(
    body: dict[str, Any], held: Instance | None = None, held_check: Check | None = None
) -> tuple[Check | None, Instance]:
    """Returns what a registration makes of what is held."""
    wanted = parse_registration(json.dumps({"name": "rag", "id": "1", "host": "10.0.0.9", **body}).encode())
    record = instance_of(wanted, node="alpha", node_host="10.0.0.9", node_mode="docked", held=held, now="t")
    return check_of(wanted, record, held=held, held_check=held_check)


def test_without_anything_said_the_pace_is_that_of_every_check():
    assert parse_check({"type": "tcp"}).pace == Pace(interval_s=10, timeout_s=5, rise=2, fall=3)


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(1, 0.5), (4, 2), (10, 5), (3600, 5)])
def test_a_probe_takes_5_seconds_or_half_a_shorter_interval(interval_s: float, timeout_s: float):
    assert TcpCheck(interval_s=interval_s).pace.timeout_s == timeout_s


def test_numbers_may_come_as_strings():
    assert parse_check({"type": "tcp", "port": "80", "interval_s": "2.5"}) == TcpCheck(
        port=80, interval_s=2.5
    )


@pytest.mark.parametrize("check", EVERY_KIND)
def test_a_check_is_kept_beside_its_record_and_read_again(check: Check):
    record = instance(host="10.0.0.9", health_url=URL)
    assert kept.unpack(kept.pack(record, check)) == (record, check)
    assert kept.unpack(kept.pack(record, None)) == (record, None)


def test_a_check_of_a_later_release_costs_the_check_and_not_the_record():
    record = instance(host="10.0.0.9")
    data = kept.pack(record, TtlCheck(ttl_s=5)).replace(b'"ttl"', b'"script"')
    assert kept.unpack(data) == (record, None)


def test_a_health_url_alone_is_an_http_check_as_usual():
    check, record = registered({"health_url": URL})
    assert (check, check_made(check, record)) == (None, HttpCheck(url=URL))


def test_the_url_of_an_http_check_is_the_health_url():
    for body in ({"check": {"type": "http", "url": URL}}, {"health_url": URL, "check": {"type": "http"}}):
        check, record = registered(body)
        assert (record.health_url, check) == (URL, HttpCheck())
        assert check_made(check, record) == HttpCheck(url=URL)


def test_a_url_that_is_not_the_health_url_is_refused():
    with pytest.raises(InvalidFieldError, match=r"check\.url: is not the health_url"):
        registered({"health_url": URL, "check": {"type": "http", "url": URL + "z"}})


def test_what_is_left_out_stays_and_what_is_given_replaces_it():
    check, held = registered({"check": {"type": "http", "url": URL, "interval_s": 60}})
    assert registered({"port": 2}, held, check)[0] == HttpCheck(interval_s=60)
    moved, record = registered({"health_url": URL + "z"}, held, check)
    assert check_made(moved, record) == HttpCheck(url=URL + "z", interval_s=60)
    gone, record = registered({"health_url": None}, held, check)
    assert check_made(gone, record) is None
    dropped, record = registered({"check": None}, held, check)
    assert check_made(dropped, record) == HttpCheck(url=URL)
    other, record = registered({"check": {"type": "ttl", "ttl_s": 5}}, held, check)
    assert (check_made(other, record), record.health_url) == (TtlCheck(ttl_s=5), URL)


@pytest.mark.parametrize(
    ("body", "kept_health"),
    [
        ({"check": {"type": "tcp", "port": 1, "interval_s": 60, "rise": 5}}, True),
        ({"check": {"type": "tcp", "port": 2}}, False),
        ({"check": {"type": "ttl", "ttl_s": 5}}, False),
        ({"check": None}, False),
        ({"health_url": URL}, True),
        ({"port": 99}, True),
    ],
)
def test_what_was_found_holds_as_long_as_the_same_is_asked(body: dict[str, Any], kept_health: bool):
    held = instance("rag", "alpha", host="10.0.0.9", health_status="healthy", health_output="ok")
    _, record = registered(body, held, TcpCheck(port=1))
    assert (record.health_status, record.health_output) == (
        ("healthy", "ok") if kept_health else ("unknown", "")
    )


def test_two_checks_ask_alike_whatever_their_pace():
    assert asks_alike(TcpCheck(port=1), TcpCheck(port=1, interval_s=99, timeout_s=1, rise=1, fall=1))
    assert not asks_alike(TcpCheck(port=1), GrpcCheck(port=1))
    assert not asks_alike(TcpCheck(), None)
    assert not asks_alike(TtlCheck(ttl_s=1), TtlCheck(ttl_s=2))
    assert asks_alike(None, None)


@pytest.mark.parametrize("seconds", [0.001, 300, 1e9])
def test_any_number_of_seconds_may_pass_before_a_lost_instance_is_removed(seconds: float):
    assert registered({"deregister_after": seconds})[1].deregister_after == seconds


def test_more_seconds_than_anybody_can_add_up_are_refused():
    with pytest.raises(InvalidFieldError, match="deregister_after"):
        registered({"deregister_after": 1e300})
