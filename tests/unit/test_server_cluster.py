"""The block of a nats-server's configuration by which it is one of several."""

from __future__ import annotations

import re

import msgspec

from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.server.cluster import Cluster, cluster_block, route_pins

CLUSTER = Cluster(
    own="alpha",
    nodes=("alpha", "beta", "gamma"),
    routes=("beta:6222", "[fd7a::3]:7000"),
    host="0.0.0.0",
    port=6222,
)


def member(name: str, *pins: str, kind: SignerKind = "node") -> Member:
    return Member(identity=f"spiffe://m/{kind}/{name}", kind=kind, name=name, pins=pins)


def access(*members: Member) -> Access:
    return Access(mesh="m", owner="spiffe://m/node/alpha", anchor_pem="", members=members)


def block(*members: Member, cluster: Cluster = CLUSTER) -> str:
    return cluster_block(cluster, access(*members), "node.crt", "node.key", "anchors.pem")


def test_only_keys_of_the_named_nodes_are_pinned():
    found = access(
        member("alpha", "a" * 64),
        member("beta", "b" * 64, "c" * 64),
        member("delta", "d" * 64),
        member("gamma", "e" * 64, kind="service"),
        member("gamma", "f" * 64, kind="operator"),
    )
    assert route_pins(CLUSTER, found) == ("a" * 64, "b" * 64, "c" * 64)


def test_a_node_without_a_certificate_that_holds_has_no_route():
    assert route_pins(CLUSTER, access(member("alpha", "a" * 64), member("beta"))) == ("a" * 64,)


def test_where_nobody_has_a_key_nobody_has_a_route():
    assert f'pinned_certs: ["{"0" * 64}"]' in block()


def test_it_goes_to_the_others_and_tells_nobody_of_them():
    text = block(member("alpha", "a" * 64))
    assert 'routes: ["nats-route://beta:6222", "nats-route://[fd7a::3]:7000"]' in text
    assert "no_advertise: true" in text
    assert "verify: true" in text
    assert 'listen: "0.0.0.0:6222"' in text


def test_an_ipv6_address_to_listen_on_stands_in_brackets():
    assert 'listen: "[::]:6222"' in block(cluster=msgspec.structs.replace(CLUSTER, host="::"))


def test_an_address_is_a_string_whatever_it_holds():
    hostile = msgspec.structs.replace(CLUSTER, routes=('x"], no_tls: ["',))
    assert re.search(r'routes: \["nats-route://x\\"\], no_tls: \[\\""\]', block(cluster=hostile))
