"""The log's pure parts: what may be shown of a URL, reply subjects, subject patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.errors import ConfigError, LogError
from pmoves_mesh.log import headers
from pmoves_mesh.log.connection import Connection, NatsSettings, redact
from pmoves_mesh.log.consumer import Delivery, parse_reply
from pmoves_mesh.log.subjects import overlap


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://user:secret@host:4222", "nats://***@host:4222"),
        ("tls://secret@host", "tls://***@host"),
        ("user:secret@host:4222", "***@host:4222"),
        ("nats://user:se@cr/et@host:4222/x", "nats://***@host:4222/x"),
        ("nats://a:sec,ret@one:1,tls://secret@two:2", "nats://***@one:1,tls://***@two:2"),
        ("nats://a:se://cret@one", "nats://***@one"),
        ("host:4222", "host:4222"),
        ("", ""),
    ],
)
def test_no_login_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_settings_do_not_show_their_secrets() -> None:
    settings = NatsSettings(
        servers=("nats://u:secret1@h",), password="secret2", token="secret3", user="agent"
    )
    assert "secret" not in repr(settings)
    assert "agent" in repr(settings)


@pytest.mark.parametrize(
    "server", ["http://u:secret@h:1", "nats://", "nats://u:secret@:4222", "nats://u:secret@h:x"]
)
def test_a_url_that_is_none_stops_the_start_without_showing_its_login(server: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Connection(NatsSettings(servers=(server,)))
    assert "secret" not in str(caught.value)
    assert caught.value.variable == "NATS_URL"


def test_no_server_at_all_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="one or more"):
        Connection(NatsSettings(servers=()))


NS = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    "reply",
    [
        f"$JS.ACK.MESH_EVENTS.tail.1.42.7.{NS}.9",
        f"$JS.ACK._.ACCOUNT.MESH_EVENTS.tail.1.42.7.{NS}.9",
        f"$JS.ACK.hub.ACCOUNT.MESH_EVENTS.tail.1.42.7.{NS}.9.token",
    ],
)
def test_a_reply_subject_is_read_in_each_of_its_forms(reply: str) -> None:
    delivery = parse_reply(reply)
    assert delivery == Delivery(position=42, serial=7, time_ns=NS, pending=9)
    assert delivery.time_ms == 1_700_000_000_123


@pytest.mark.parametrize(
    "reply", ["", "_INBOX.x.1", "$JS.ACK.a.b.1.2.3", "$JS.ACK.a.b.1.two.3.4.5", "$JS.FC.a.b.c.d.e.f.g"]
)
def test_what_is_no_reply_subject_is_an_error_of_one_line(reply: str) -> None:
    with pytest.raises(LogError, match=re.escape("is not the reply subject")):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "*.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.>", False),
        (">", "a", True),
        ("service.registry.>", "service.registry.*", True),
        ("mesh.gpu.>", "mesh.node.*.v1", False),
        ("mesh.>", "mesh.node.*.v1", True),
    ],
)
def test_patterns_overlap_if_one_subject_matches_both(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"NATS/1.0\r\nA: 1\r\nB:2\r\n\r\n", {"A": "1", "B": "2"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503", "Description": ""}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "7"},
        ),
        (b"NATS/1.0\r\nStatus: 409\r\nDescription: no\r\nA: 1\r\n\r\n", {"A": "1"}),
        (b"NATS/1.0 soon\r\n\r\n", {}),
        (b"NATS/1.0 409 \xff\r\n\r\n", {"Status": "409", "Description": "\ufffd"}),
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", {"A": "1"}),
        (b"NATS/1.0\r\n\xff: 1\r\nB: \xff\r\nno header\r\n: empty\r\nC: 3\r\n\r\n", {"C": "3"}),
        (b"\r\n\r\n", {}),
        (b"", {}),
    ],
)
def test_headers_are_read_whatever_somebody_put_there(raw: bytes, found: dict[str, str]):
    assert headers.parse(raw) == found


@given(st.binary(max_size=200))
def test_no_header_block_does_more_than_say_little(raw: bytes):
    assert isinstance(headers.parse(raw), dict)
    assert isinstance(headers.parse(b"NATS/1.0 " + raw), dict)
