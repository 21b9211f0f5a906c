"""What the names of a mesh answer, as a client's DNS library reads it."""

from __future__ import annotations

import pytest
from builders import MESH, evicted, instance, left, lost, revoked
from dns.rcode import NOERROR, NXDOMAIN, REFUSED, SERVFAIL
from dns_support import Answering, hosts, outcome, question, texts

NODATA = (NOERROR, 0, ["SOA"])
NO_NAME = (NXDOMAIN, 0, ["SOA"])


@pytest.fixture
def mesh() -> Answering:
    """Two healthy instances of `rag`, a sick one and one in maintenance; `alpha` and `beta` are nodes."""
    answering = Answering()
    answering.announce("alpha", host="10.0.0.1", tailscale_ip="100.64.0.1", capabilities=("gpu",))
    answering.announce("beta", host="fd00::2")
    answering.hold(
        instance(
            "rag",
            "alpha",
            host="10.0.0.1",
            port=8086,
            ports={"grpc": 9000},
            capabilities=("gpu:rtx5090", "search"),
            health_status="healthy",
            metadata={"version": "1.2", "weight": 2},
        ),
        instance("rag", "beta", host="fd00::2", port=8087, capabilities=("search",)),
        instance("rag", "gamma", host="10.0.0.3", port=8088, health_status="unhealthy"),
        instance("rag", "delta", host="10.0.0.4", port=8089, maintenance=True),
        instance("sick", "gamma", host="10.0.0.3", port=1, health_status="unhealthy"),
    )
    return answering


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("rag.service", "A", ["10.0.0.1"]),
        ("rag.service", "AAAA", ["fd00::2"]),
        ("RAG.Service", "A", ["10.0.0.1"]),
        ("search.rag.service", "AAAA", ["fd00::2"]),
        ("gpu-rtx5090.rag.service", "A", ["10.0.0.1"]),
        ("gpu-rtx5090.cap", "A", ["10.0.0.1"]),
        ("gpu:rtx5090.cap", "A", ["10.0.0.1"]),
        ("search.cap", "SRV", ["1 256 8087 beta.node.{mesh}.", "1 512 8086 alpha.node.{mesh}."]),
        ("rag.service", "SRV", ["1 256 8087 beta.node.{mesh}.", "1 512 8086 alpha.node.{mesh}."]),
        ("_rag._tcp.service", "SRV", ["1 256 8087 beta.node.{mesh}.", "1 512 8086 alpha.node.{mesh}."]),
        ("_grpc._tcp.rag.service", "SRV", ["1 512 9000 alpha.node.{mesh}."]),
        ("alpha.node", "A", ["10.0.0.1"]),
        ("beta.node", "AAAA", ["fd00::2"]),
        ("1.0.0.10.in-addr.arpa.", "PTR", ["alpha.node.{mesh}."]),
        ("1.0.64.100.in-addr.arpa.", "PTR", ["alpha.node.{mesh}."]),
        (f"2.{'0.' * 27}0.0.d.f.ip6.arpa.", "PTR", ["beta.node.{mesh}."]),
        ("1.0.0.10.in-addr.arpa.", "NS", ["alpha.node.{mesh}."]),
        (f"{MESH}.", "NS", ["alpha.node.{mesh}."]),
    ],
)
def test_a_name_answers_with_what_the_registry_holds(mesh: Answering, name: str, kind: str, found: list[str]):
    answer = mesh.ask(name, kind)
    assert sorted(texts(answer)) == [text.format(mesh=MESH) for text in found]
    assert answer.rcode() == NOERROR
    assert "AA" in answer.flags.name


@pytest.mark.parametrize(
    ("name", "kind", "how"),
    [
        ("sick.service", "A", NODATA),
        ("sick.service", "SRV", NODATA),
        ("_sick._tcp.service", "SRV", NODATA),
        ("_rag._tcp.service", "A", NODATA),
        ("search.rag.service", "CNAME", NODATA),
        ("alpha.node", "AAAA", NODATA),
        ("alpha.node", "SRV", NODATA),
        ("service", "A", NODATA),
        ("cap", "A", NODATA),
        ("node", "TXT", NODATA),
        ("_tcp.service", "SRV", NODATA),
        ("_tcp.rag.service", "SRV", NODATA),
        (f"{MESH}.", "A", NODATA),
        ("1.0.0.10.in-addr.arpa.", "TXT", NODATA),
        ("none.service", "A", NO_NAME),
        ("_none._tcp.service", "SRV", NO_NAME),
        ("_tcp.none.service", "SRV", NO_NAME),
        ("none.rag.service", "A", NO_NAME),
        ("_none._tcp.rag.service", "SRV", NO_NAME),
        ("a.search.rag.service", "A", NO_NAME),
        ("none.cap", "A", NO_NAME),
        ("none.node", "A", NO_NAME),
        ("0a000009.alpha.node", "A", NO_NAME),
        ("0a000001.alpha.node", "A", NO_NAME),
        ("rag", "A", NO_NAME),
        ("www.example.com.", "A", (REFUSED, 0, [])),
        (f"{MESH}.example.com.", "A", (REFUSED, 0, [])),
        (".", "NS", (REFUSED, 0, [])),
        ("9.9.9.9.in-addr.arpa.", "PTR", (REFUSED, 0, [])),
        ("in-addr.arpa.", "NS", (REFUSED, 0, [])),
        (f"{MESH}.", "AXFR", (REFUSED, 0, [])),
        (f"{MESH}.", "IXFR", (REFUSED, 0, [])),
    ],
)
def test_what_is_not_there_is_told_apart_from_what_has_no_name_and_from_what_is_not_ours(
    mesh: Answering, name: str, kind: str, how: object
):
    assert outcome(mesh.ask(name, kind)) == how


def test_a_negative_answer_may_be_remembered_for_as_long_as_its_soa_says(mesh: Answering):
    (soa,) = mesh.ask("none.service").authority
    assert soa.name.to_text() == f"{MESH}."
    assert soa.ttl == 1
    assert soa[0].minimum == 1
    assert soa[0].mname.to_text() == f"alpha.node.{MESH}."


def test_the_serial_of_the_zone_is_the_position_of_the_stream(mesh: Answering):
    (soa,) = mesh.ask(f"{MESH}.", "SOA").answer
    assert soa[0].serial == mesh.replica.position
    assert soa.ttl == 5


def test_an_srv_record_comes_with_the_address_of_its_target(mesh: Answering):
    answer = mesh.ask("_rag._tcp.service", "SRV")
    additional = {rrset.name.to_text(): [one.to_text() for one in rrset] for rrset in answer.additional}
    assert additional == {f"alpha.node.{MESH}.": ["10.0.0.1"], f"beta.node.{MESH}.": ["fd00::2"]}


def test_an_address_that_is_not_its_nodes_has_a_name_below_the_nodes(mesh: Answering):
    mesh.hold(instance("web", "alpha", host="10.0.0.77", port=80), instance("web", "alpha", "2", host="::7"))
    targets = [text.split()[-1] for text in mesh.texts("web.service", "SRV")]
    assert targets == [f"0a00004d.alpha.node.{MESH}."]
    assert mesh.texts("0a00004d.alpha.node") == ["10.0.0.77"]
    assert mesh.texts(f"{'0' * 31}7.alpha.node", "AAAA") == ["::7"]
    assert outcome(mesh.ask("0a00004d.beta.node")) == NO_NAME


def test_instances_on_one_host_share_its_address_and_keep_their_ports(mesh: Answering):
    mesh.hold(*(instance("web", "alpha", str(port), host="10.0.0.1", port=port) for port in (80, 81)))
    assert mesh.texts("web.service") == ["10.0.0.1"]
    assert mesh.texts("web.service", "SRV") == [f"1 256 {port} alpha.node.{MESH}." for port in (80, 81)]
    assert len(mesh.ask("web.service", "SRV").additional) == 1


def test_an_instance_without_an_endpoint_is_found_only_where_none_has_one():
    mesh = Answering()
    mesh.hold(instance("agent", "alpha", host="10.0.0.1"), instance("agent", "beta", host="10.0.0.2"))
    assert mesh.texts("agent.service") == ["10.0.0.1", "10.0.0.2"]
    assert outcome(mesh.ask("agent.service", "SRV")) == NODATA
    mesh.hold(instance("agent", "beta", host="10.0.0.2", port=80))
    assert mesh.texts("agent.service") == ["10.0.0.2"]


def test_a_host_that_is_a_name_is_the_srv_target_itself_and_an_alias_for_those_who_ask_for_addresses():
    mesh = Answering()
    mesh.hold(instance("web", "alpha", host="Web.Example.com", port=443))
    assert mesh.texts("web.service", "SRV") == ["1 256 443 web.example.com."]
    assert not mesh.ask("web.service", "SRV").additional
    for kind in ("A", "AAAA", "CNAME"):
        (alias,) = mesh.ask("web.service", kind).answer
        assert alias.to_text() == f"web.service.{MESH}. 5 IN CNAME web.example.com."


def test_a_name_never_has_two_aliases_nor_an_alias_beside_addresses():
    mesh = Answering()
    mesh.hold(*(instance("web", node, host=f"{node}.example.com", port=1) for node in ("alpha", "beta")))
    answers = {texts(mesh.ask("web.service"))[0] for _ in range(4)}
    assert answers == {"alpha.example.com.", "beta.example.com."}
    assert all(len(mesh.ask("web.service").answer) == 1 for _ in range(4))
    mesh.hold(instance("web", "gamma", host="10.0.0.3", port=1))
    assert mesh.texts("web.service") == ["10.0.0.3"]
    assert len(mesh.texts("web.service", "SRV")) == 3
    assert outcome(mesh.ask("web.service", "CNAME")) == NODATA


@pytest.mark.parametrize("host", ["beta", "beta.node.pmoves-mesh", "BETA.node.pmoves-mesh."])
def test_a_host_that_names_a_node_is_where_that_node_is(mesh: Answering, host: str):
    mesh.hold(instance("web", "alpha", host=host, port=80))
    assert mesh.texts("web.service", "AAAA") == ["fd00::2"]
    assert mesh.texts("web.service", "SRV") == [f"1 256 80 beta.node.{MESH}."]
    assert len(mesh.ask("web.service", "SRV").additional) == 1


def test_an_srv_record_never_points_to_an_alias():
    mesh = Answering()
    mesh.announce("beta", host="vps.example.com")
    mesh.hold(instance("web", "alpha", host="beta", port=80))
    assert mesh.texts("web.service", "SRV") == ["1 256 80 vps.example.com."]
    assert mesh.texts("beta.node", "AAAA") == ["vps.example.com."]


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "fe80::1%eth0", "[::x", "a[b]", "a%b"])
def test_a_host_that_dns_has_no_word_for_is_left_out(mesh: Answering, host: str):
    mesh.hold(instance("web", "alpha", host=host, port=80), instance("web", "beta", host="10.9.9.9", port=81))
    assert mesh.texts("web.service", "A") == ["10.9.9.9"]
    assert len(mesh.texts("web.service", "SRV")) == 1


def test_an_address_in_brackets_is_an_address(mesh: Answering):
    mesh.hold(instance("web", "alpha", host="[fd00::9]", port=80))
    assert mesh.texts("web.service", "AAAA") == ["fd00::9"]


def test_txt_tells_each_instance_and_its_metadata(mesh: Answering):
    assert mesh.texts("rag.service", "TXT") == [
        '"id=1" "node=alpha" "mode=docked" "version=1.2" "weight=2"',
        '"id=1" "node=beta" "mode=docked"',
    ]
    assert mesh.texts("_rag._tcp.service", "TXT") == mesh.texts("rag.service", "TXT")


def test_txt_leaves_out_what_it_cannot_say():
    mesh = Answering()
    metadata = {
        "a=b": "1",
        "": "2",
        "ä": "3",
        "long": "x" * 255,
        "fits": "ö",
        "nested": {"a": [1]},
        "id": "9",
    }
    mesh.hold(instance("web", "alpha", port=1, host="10.0.0.1", metadata=metadata))
    (text,) = mesh.texts("web.service", "TXT")
    assert text == r'"id=1" "node=alpha" "mode=docked" "fits=\195\182" "nested={\"a\":[1]}" "id=9"'


def test_txt_tells_a_node_and_what_it_can_do(mesh: Answering):
    assert mesh.texts("alpha.node", "TXT") == ['"node=alpha" "status=alive" "mode=docked" "capabilities=gpu"']


@pytest.mark.parametrize(
    ("weight", "shown"),
    [(1, 256), (0, 0), (0.5, 128), (300, 65535), (-1, 256), ("3", 256), (True, 256), (float("1e300"), 65535)],
)
def test_the_weight_of_an_instance_is_that_of_its_srv_record(weight: object, shown: int):
    mesh = Answering()
    mesh.hold(instance("web", "alpha", host="10.0.0.1", port=80, metadata={"weight": weight}))
    assert mesh.texts("web.service", "SRV")[0].split()[1] == str(shown)


def test_a_lost_nodes_instances_are_gone_and_its_own_name_stays():
    mesh = Answering()
    mesh.announce("beta", host="10.0.0.2")
    mesh.hold(instance("web", "beta", host="10.0.0.2", port=80))
    assert mesh.texts("web.service") == ["10.0.0.2"]
    mesh.story.tell(lost(9, "beta"))
    assert outcome(mesh.ask("web.service")) == NODATA
    assert mesh.texts("beta.node") == ["10.0.0.2"]
    assert '"status=lost"' in mesh.texts("beta.node", "TXT")[0]


def test_a_node_that_left_has_no_name_any_more():
    mesh = Answering()
    mesh.announce("beta", host="10.0.0.2")
    mesh.story.tell(left(9, "beta"))
    assert outcome(mesh.ask("beta.node")) == NO_NAME
    assert outcome(mesh.ask("2.0.0.10.in-addr.arpa.", "PTR")) == (REFUSED, 0, [])


def test_what_an_operator_evicted_or_revoked_is_not_answered():
    mesh = Answering()
    mesh.hold(*(instance("web", node, host="10.0.0.2", port=80) for node in ("beta", "gamma")))
    mesh.story.tell(evicted("web", "beta"))
    assert len(mesh.texts("web.service", "TXT")) == 1
    mesh.story.tell(revoked(mesh.story.identity("gamma").fingerprint))
    assert outcome(mesh.ask("web.service")) == NO_NAME


def test_several_nodes_may_share_an_address():
    mesh = Answering()
    for node in ("alpha", "beta"):
        mesh.announce(node, host="127.0.0.1")
    assert mesh.texts("1.0.0.127.in-addr.arpa.", "PTR") == [
        f"{node}.node.{MESH}." for node in ("alpha", "beta")
    ]


@pytest.mark.parametrize(
    "name", ["none.service", "none.cap", "none.node", "sick.service", "9.9.9.9.in-addr.arpa."]
)
def test_who_was_never_informed_says_so_and_denies_nothing(name: str):
    mesh = Answering(informed=False)
    mesh.hold(
        instance("mine", "alpha", host="10.0.0.1", port=1),
        instance("sick", "alpha", host="10.0.0.1", port=1, health_status="unhealthy"),
    )
    answer = mesh.ask(name, use_edns=0)
    assert outcome(answer) == (SERVFAIL, 0, [])
    (why,) = answer.options
    assert why.to_text() == "EDE 14 (Not Ready): this agent has not seen the mesh yet"
    assert mesh.texts("mine.service") == ["10.0.0.1"]
    assert mesh.texts(f"{MESH}.", "NS")


def test_capabilities_with_one_label_are_found_together():
    mesh = Answering()
    mesh.hold(
        instance("a", "alpha", host="10.0.0.1", port=1, capabilities=("llama3.1", "gpu")),
        instance("b", "beta", host="10.0.0.2", port=1, capabilities=("Llama3/1",)),
    )
    assert mesh.texts("llama3-1.cap") == ["10.0.0.1", "10.0.0.2"]


def test_any_gets_one_type_over_udp_and_all_of_them_over_tcp(mesh: Answering):
    assert {rrset.rdtype.name for rrset in mesh.ask("rag.service", "ANY").answer} == {"SRV"}
    whole = mesh.ask("rag.service", "ANY", tcp=True)
    assert {rrset.rdtype.name for rrset in whole.answer} == {"SRV", "A", "AAAA", "TXT"}


def test_every_instance_of_a_service_comes_first_as_often_as_the_others():
    mesh = Answering()
    mesh.hold(*hosts(8))
    firsts = [texts(mesh.ask("rag.service"))[0] for _ in range(80)]
    assert {firsts.count(host) for host in set(firsts)} == {10}
    assert len(set(firsts)) == 8


def test_of_more_instances_than_there_are_orders_each_comes_first_in_the_long_run():
    mesh = Answering()
    mesh.hold(*hosts(40))
    query = question("rag.service").to_wire()
    begin = len(query) + len(b"\xc0\x0c") + 10
    firsts = {(mesh.responder.datagram(query, 4096) or b"")[begin : begin + 4] for _ in range(40_000)}
    assert len(firsts) == 40
