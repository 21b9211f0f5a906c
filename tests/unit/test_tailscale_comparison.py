"""The mesh beside the tailnet: one row a machine, and a word where they disagree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tailscale_stub import peer, status_text

from pmoves_mesh.tailscale.comparison import MeshNode, Row, compare, is_tailscale
from pmoves_mesh.tailscale.state import TailscaleStatus, parse_status

NOW_MS = 1_900_000_000_000
SEEN = "2030-01-01T00:00:00.000Z"


def node(name: str, status: str = "alive", host: str = "", tailscale_ip: str | None = None) -> MeshNode:
    return MeshNode(name, status, host, tailscale_ip, SEEN)


def tailnet(*peers: dict[str, object]) -> TailscaleStatus:
    return parse_status(status_text("Running", *peers).encode())


def row_of(name: str, nodes: list[MeshNode], *peers: dict[str, object]) -> Row:
    return next(row for row in compare(nodes, tailnet(*peers), NOW_MS) if row.name == name)


def test_a_node_and_its_machine_are_one_row():
    nodes = [node("jetson", host="100.101.1.2")]
    assert row_of("jetson", nodes, peer("jetson", 2, CurAddr="192.0.2.7:41641", Active=True)) == Row(
        name="jetson",
        mesh="alive",
        tailscale="online",
        address="100.101.1.2",
        ipv6="fd7a:115c:a1e0::2",
        path="direct at 192.0.2.7:41641",
        last_seen=SEEN,
        disagreement="",
    )


def test_this_host_has_a_row_too_and_is_online():
    assert row_of("main-pc", [node("main-pc", host="100.101.1.1")]).tailscale == "online"


def test_a_machine_is_known_by_its_address_before_its_name():
    nodes = [node("gpu", host="100.101.1.3")]
    assert row_of("gpu", nodes, peer("gpu", 2), peer("renamed", 3)).address == "100.101.1.3"


def test_no_node_takes_another_ones_machine_because_of_its_name():
    nodes = [node("a", host="192.168.1.5"), node("b", host="100.101.1.2")]
    assert row_of("b", nodes, peer("a", 2)).address == "100.101.1.2"
    assert row_of("a", nodes, peer("a", 2)).tailscale is None


def test_a_machine_is_known_by_its_ipv6_address():
    assert row_of("gpu", [node("gpu", host="fd7a:115c:a1e0::3")], peer("renamed", 3)).disagreement == ""


def test_a_node_that_announces_another_network_is_known_by_its_name():
    found = row_of("jetson", [node("jetson", host="192.168.1.5")], peer("jetson", 2, Active=True))
    assert (found.path, found.disagreement) == ("relayed by fra", "")


def test_a_machine_that_is_no_node_is_listed_without_a_state_in_the_mesh():
    found = row_of("phone", [], peer("phone", 9, Online=False, LastSeen="2029-12-31T00:00:00Z"))
    assert (found.mesh, found.tailscale, found.last_seen) == (None, "offline", "2029-12-31T00:00:00Z")
    assert found.disagreement == ""


@pytest.mark.parametrize(
    ("held", "peers", "word"),
    [
        (node("a", host="192.168.1.5"), [], "it is not in this tailnet"),
        (node("a", "lost", host="192.168.1.5"), [], ""),
        (
            node("a", host="100.99.9.9"),
            [],
            "it announces 100.99.9.9, which nobody in this tailnet has",
        ),
        (
            node("a", host="100.99.9.9"),
            [peer("a", 2)],
            "it announces 100.99.9.9, but Tailscale gave it 100.101.1.2",
        ),
        (
            node("a", host="100.101.1.2"),
            [peer("a", 2, Online=False)],
            "its announcements arrive, but Tailscale has it offline",
        ),
        (
            node("a", "lost", host="100.101.1.2"),
            [peer("a", 2)],
            "Tailscale reaches it, but its agent is down or cut off from NATS",
        ),
        (node("a", "left", host="100.101.1.2"), [peer("a", 2)], ""),
        (node("a", "lost", host="100.101.1.2"), [peer("a", 2, Online=False)], ""),
        (
            node("a", host="100.101.1.2"),
            [peer("a", 2, KeyExpiry="2020-01-01T00:00:00Z")],
            "its Tailscale key has expired",
        ),
    ],
)
def test_each_disagreement_has_a_plain_word(held: MeshNode, peers: list[dict[str, object]], word: str):
    assert row_of("a", [held], *peers).disagreement == word


def test_without_tailscale_the_nodes_are_listed_and_nothing_is_held_against_them():
    (row,) = compare([node("a", host="192.168.1.5")], None, NOW_MS)
    assert (row.name, row.tailscale, row.address, row.disagreement) == ("a", None, "192.168.1.5", "")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("100.64.0.1", True),
        ("100.127.255.254", True),
        ("100.128.0.1", False),
        ("fd7a:115c:a1e0::1", True),
        ("fd00::1", False),
        ("jetson.local", False),
    ],
)
def test_addresses_of_tailscale_are_told_from_others(address: str, expected: bool):
    assert is_tailscale(address) is expected


HOSTS = st.sampled_from(["100.101.1.1", "100.101.1.2", "100.99.9.9", "192.168.1.5", ""])
NODES = st.builds(node, st.sampled_from("abc"), st.sampled_from(["alive", "left", "lost"]), HOSTS)


@given(st.lists(NODES, max_size=3, unique_by=lambda one: one.name), st.sets(st.integers(2, 5)))
def test_every_node_and_every_machine_has_exactly_one_row(nodes: list[MeshNode], numbers: set[int]):
    status = tailnet(*(peer("abcdef"[number], number) for number in sorted(numbers)))
    rows = compare(nodes, status, NOW_MS)
    assert sum(row.mesh is not None for row in rows) == len(nodes)
    assert sum(row.tailscale is not None for row in rows) == len(numbers) + 1
