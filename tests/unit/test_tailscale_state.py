"""What `tailscale status --json` says, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tailscale_stub import MYSELF, peer, status_text

from pmoves_mesh.tailscale.state import Peer, parse_status

LATE_MS = 2_000_000_000_000


def only_peer(**fields: object) -> Peer:
    return parse_status(status_text("Running", peer("jetson", 2, **fields)).encode()).machines[1]


@pytest.mark.parametrize("spaces", [True, False])
def test_running_is_known_with_and_without_spaces(spaces: bool):
    assert parse_status(status_text(spaces=spaces).encode()).running


def test_this_machine_is_online_while_it_runs_whatever_its_own_field_says():
    assert not MYSELF["Online"]
    assert parse_status(status_text().encode()).machines[0].online
    assert not parse_status(status_text("Stopped").encode()).machines[0].online


def test_both_addresses_are_known_in_whatever_order():
    found = only_peer(TailscaleIPs=["fd7a:115c:a1e0::2", "100.101.1.2"])
    assert (found.ipv4, found.ipv6) == ("100.101.1.2", "fd7a:115c:a1e0::2")


def test_a_machine_without_addresses_has_none():
    found = only_peer(TailscaleIPs=None)
    assert (found.ipv4, found.ipv6) == (None, None)


@pytest.mark.parametrize(
    ("fields", "path", "via"),
    [
        ({"CurAddr": "192.0.2.7:41641", "Active": True}, "direct", "192.0.2.7:41641"),
        ({"CurAddr": "192.0.2.7:41641", "Active": False}, "direct", "192.0.2.7:41641"),
        ({"CurAddr": "", "Relay": "fra", "Active": True}, "relayed", "fra"),
        ({"PeerRelay": "192.0.2.9:7777:vni:1", "Active": True}, "relayed", "192.0.2.9:7777:vni:1"),
        ({"CurAddr": "", "Relay": "fra", "Active": False}, "idle", ""),
        ({"Online": False, "CurAddr": "192.0.2.7:41641"}, "offline", ""),
    ],
)
def test_a_path_is_direct_relayed_idle_or_offline(fields: dict[str, object], path: str, via: str):
    found = only_peer(**fields)
    assert (found.path, found.via) == (path, via)


def test_a_connected_machine_was_not_seen_in_the_year_one():
    assert only_peer().last_seen is None
    seen = only_peer(Online=False, LastSeen="2030-01-01T12:00:00.1Z").last_seen
    assert seen is not None
    assert seen.year == 2030


def test_a_key_ends_when_it_says_or_when_the_control_server_says():
    assert not only_peer(KeyExpiry=None).has_expired(LATE_MS)
    assert not only_peer(KeyExpiry="0001-01-01T00:00:00Z").has_expired(LATE_MS)
    assert not only_peer(KeyExpiry="2033-05-18T03:33:21Z").has_expired(LATE_MS)
    assert only_peer(KeyExpiry="2033-05-18T03:33:20Z").has_expired(LATE_MS)
    assert only_peer(KeyExpiry=None, Expired=True).has_expired(0)


def test_machines_of_one_host_name_are_told_apart_by_the_tailnets_name():
    assert only_peer(HostName="localhost", DNSName="phone-2.tail1a2b.ts.net.").name == "phone-2"
    assert only_peer(DNSName="").name == "jetson"


@given(st.binary(max_size=200))
def test_whatever_is_no_status_is_a_value_error(noise: bytes):
    with pytest.raises(ValueError, match=r".+"):
        parse_status(noise)
