"""Who may log in, with which rights, and what the server trusts a mesh's CA for: as data and as text."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from builders import Authority
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.event import EVENT_TYPES, STREAM_SUBJECTS
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import StartError
from pmoves_mesh.log import checkpoints, topology
from pmoves_mesh.log.subjects import overlap
from pmoves_mesh.server import permissions as rights
from pmoves_mesh.server.access import Access, Member, decode, encode
from pmoves_mesh.server.anchors import constrained_anchor, constrained_anchors
from pmoves_mesh.server.permissions import crossings, outer_account, permissions
from pmoves_mesh.server.settings import Listener, ServerFiles, render

CA = Authority()
ROOT_PEM = CA.root.public_bytes(Encoding.PEM).decode()
SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats-server.conf"


def member(name: str, kind: str = "node", mesh: str = "pmoves-mesh", pins: tuple[str, ...] = ()) -> Member:
    return Member(identity=spiffe_id(mesh, kind, name), kind=kind, name=name, pins=pins)  # type: ignore[arg-type]


def access(*members: Member, mesh: str = "pmoves-mesh") -> Access:
    return Access(mesh=mesh, owner=spiffe_id(mesh, "node", "main"), anchor_pem=ROOT_PEM, members=members)


A = msgspec.to_builtins(member("a"))
LABELS = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z", fullmatch=True)
PINS = st.lists(st.from_regex(r"\A[0-9a-f]{64}\Z", fullmatch=True), max_size=3).map(tuple)
MEMBERS = st.builds(member, name=LABELS, kind=st.sampled_from(["node", "service", "operator"]), pins=PINS)


@given(st.lists(MEMBERS, max_size=8, unique_by=lambda one: one.identity))
def test_an_access_file_says_again_what_was_written_whatever_the_order(members: list[Member]):
    written = access(*members)
    read = decode(encode(written))
    assert sorted(read.members, key=lambda one: one.identity) == list(read.members)
    assert {one.identity: one for one in read.members} == {one.identity: one for one in members}
    assert encode(written) == encode(access(*reversed(members)))


@given(st.lists(MEMBERS, max_size=4, unique_by=lambda one: one.identity))
def test_no_user_is_of_another_mesh_than_its_account(members: list[Member]):
    listener = Listener(port=1, mesh="pmoves-mesh", certificate="/c", key="/k")
    text = render(ServerFiles(Path("/nats")), "n", listener, [access(*members)])
    users = [line.strip() for line in text.splitlines() if line.strip().startswith("{user:")]
    assert all(user.startswith('{user: "spiffe://pmoves-mesh/') for user in users)
    assert len(users) == sum(bool(one.pins) for one in members)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"members": [{**msgspec.to_builtins(member("a")), "identity": "spiffe://guest/node/a"}]},
            "no identity of",
        ),
        ({"members": [{**msgspec.to_builtins(member("a")), "name": "b"}]}, "no identity of"),
        ({"members": [{**msgspec.to_builtins(member("a")), "kind": "operator"}]}, "no identity of"),
        ({"members": [{**msgspec.to_builtins(member("a")), "kind": "root"}]}, "not usable"),
        ({"members": [{**msgspec.to_builtins(member("a")), "pins": ["x" * 64]}]}, "not usable"),
        ({"members": [msgspec.to_builtins(member("a"))] * 2}, "listed twice"),
        ({"mesh": "../main"}, "not usable"),
        ({"mesh": 'x" }'}, "not usable"),
        ({"mesh": "SYS"}, "not usable"),
        ({"anchor_pem": ""}, "without its CA certificate"),
        ({"anchor_pem": "-----BEGIN EC PARAMETERS-----"}, "without its CA certificate"),
    ],
)
def test_an_access_file_that_is_not_sound_is_refused(changed: dict[str, object], problem: str):
    content = {**msgspec.to_builtins(access(member("main"))), **changed}
    with pytest.raises(StartError, match=problem):
        decode(msgspec.json.encode(content))


@given(st.binary(max_size=64))
def test_an_access_file_of_any_bytes_is_an_access_or_a_start_error(data: bytes):
    with pytest.raises(StartError):
        decode(data)


def test_every_event_is_of_one_kind_of_author():
    kinds = [*rights.NODE_EVENTS, *rights.CA_EVENTS, *rights.OPERATOR_EVENTS]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == set(EVENT_TYPES)


@pytest.mark.parametrize("name", ["jetson", "main"])
def test_a_node_may_write_its_own_lease_and_no_other(name: str):
    may = permissions(member(name), access())
    leases = [subject for subject in may.publish if subject.startswith("$KV.MESH_LEASES.")]
    assert leases == [f"$KV.MESH_LEASES.{name}"]
    assert may.subscribe[0] == f"_INBOX.node.{name}.>"
    assert [subject for subject in may.subscribe if subject.startswith("_INBOX.node.")] == [may.subscribe[0]]


def test_of_all_nodes_only_the_servers_own_takes_part_in_microservices():
    owner, other = (permissions(member(name), access()) for name in ("main", "jetson"))
    assert {"$SRV.>", "_INBOX.micro.>"} <= set(owner.subscribe)
    assert {"$SRV.INFO", "_INBOX.>"} <= set(owner.publish)
    assert set(owner.publish_deny) == {"_INBOX.node.>", "_INBOX.operator.>"}
    assert not [one for one in (*other.publish, *other.subscribe) if "SRV" in one or "micro" in one]


@pytest.mark.parametrize("kind", ["node", "operator"])
def test_whoever_is_not_at_home_reaches_what_crosses_and_no_more(kind: str):
    may = permissions(member("jetson", kind), access())
    reached = {crossing.local for crossing in crossings()}
    for subject in may.publish:
        assert subject in reached or subject == "$KV.MESH_LEASES.jetson"
        assert not subject.startswith("$JS.API.")


def test_nothing_that_crosses_can_destroy_or_make_a_stream():
    for crossing in crossings():
        for verb in ("DELETE", "PURGE", "UPDATE", "CREATE", "RESTORE", "MSG.DELETE"):
            assert not overlap(crossing.subject, f"$JS.API.STREAM.{verb}.>")
        assert not overlap(crossing.subject, "$JS.API.CONSUMER.DELETE.>")
        assert not overlap(crossing.subject, "$JS.API.ACCOUNT.>")


@pytest.mark.parametrize("subject", STREAM_SUBJECTS)
def test_a_service_states_nothing_that_the_stream_takes(subject: str):
    may = permissions(member("whisper", "service"), access())
    covering = [denied for denied in may.publish_deny if overlap(denied, subject)]
    assert [denied for denied in covering if denied.endswith(".>") and subject.startswith(denied[:-1])]


def test_the_stream_and_buckets_are_those_that_the_log_makes():
    made = [
        topology.EVENTS,
        *(f"KV_{name}" for name in (topology.REGISTRY, topology.IDENTITIES, topology.LEASES)),
        checkpoints.configuration(1, 1)["name"],
    ]
    assert list(rights._STREAMS) == made


def test_no_account_of_a_mesh_can_be_that_of_another():
    with pytest.raises(StartError):
        decode(msgspec.json.encode({**msgspec.to_builtins(access()), "mesh": outer_account("pmoves-mesh")}))


# What the server trusts a CA for


def anchor(strangers: tuple[str, ...] = ()) -> x509.Certificate:
    return x509.load_pem_x509_certificate(constrained_anchor(CA.root, "pmoves-mesh", strangers).encode())


def test_an_anchor_stands_for_the_ca_and_is_limited_to_its_mesh():
    made = anchor(("spiffe://guest/node/a",))
    assert (made.subject, made.public_key()) == (CA.root.subject, CA.root.public_key())
    key_id = x509.SubjectKeyIdentifier
    assert made.extensions.get_extension_for_class(key_id) == CA.root.extensions.get_extension_for_class(
        key_id
    )
    limits = made.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees == [x509.UniformResourceIdentifier("pmoves-mesh")]
    assert limits.value.excluded_subtrees == [x509.DNSName("spiffe://guest/node/a")]
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_anchor_is_the_same_whenever_it_is_made():
    assert constrained_anchor(CA.root, "m", ("b", "a")) == constrained_anchor(CA.root, "m", ("a", "b"))


def test_the_signature_of_an_anchor_is_not_the_cas():
    made = anchor()
    with pytest.raises((TypeError, ValueError)):
        made.verify_directly_issued_by(CA.root)


def test_every_root_of_a_rotation_gets_an_anchor():
    second = Authority().root.public_bytes(Encoding.PEM).decode()
    made = x509.load_pem_x509_certificates(constrained_anchors(ROOT_PEM + second, "pmoves-mesh").encode())
    assert len(made) == 2


def test_what_is_no_ca_certificate_makes_no_anchor():
    leaf = CA.identity("alpha").certificate.public_bytes(Encoding.PEM).decode()
    for pem in (leaf, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(StartError, match=r"the CA certificate of mesh m cannot be used"):
            constrained_anchors(pem, "m")


# As text


def test_without_a_pin_no_member_is_a_user_and_no_key_passes():
    listener = Listener(port=1, mesh="pmoves-mesh", certificate="/c", key="/k")
    text = render(ServerFiles(Path("/nats")), "n", listener, [access(member("main"))])
    assert "{user:" not in text
    assert f'pinned_certs: [\n        "{"0" * 64}"\n    ]' in text


@pytest.mark.parametrize(
    ("host", "listen", "url"),
    [
        ("127.0.0.1", "127.0.0.1:1", "nats://127.0.0.1:1"),
        ("0.0.0.0", "0.0.0.0:1", "nats://127.0.0.1:1"),
        ("::", "[::]:1", "nats://[::1]:1"),
        ("main.lan", "main.lan:1", "nats://main.lan:1"),
    ],
)
def test_a_listener_is_written_and_reached_by_its_address(host: str, listen: str, url: str):
    listener = Listener(port=1, host=host)
    assert render(ServerFiles(Path("/nats")), "n", listener).startswith(f'listen: "{listen}"\n')
    assert listener.url == url


def example() -> tuple[ServerFiles, Listener, Access]:
    """Returns the example that is shipped: a host `main`, a node, an operator and a service."""
    members = (
        member("main", pins=("a" * 64,)),
        member("jetson", pins=("b" * 64,)),
        member("main", "operator", pins=("c" * 64,)),
        member("whisper", "service", pins=("d" * 64,)),
    )
    listener = Listener(
        port=4222,
        host="0.0.0.0",
        mesh="pmoves-mesh",
        certificate="/etc/nats/server.crt",
        key="/etc/nats/server.key",
    )
    return ServerFiles(Path("/var/lib/nats")), listener, access(*members)


def test_the_configuration_that_is_shipped_is_the_one_that_the_embedded_server_gets():
    files, listener, members = example()
    assert SHIPPED.read_text() == render(files, "nats-1", listener, [members])


def test_the_time_of_a_root_is_the_time_of_its_anchor():
    assert anchor().not_valid_after_utc == CA.root.not_valid_after_utc
    assert anchor().not_valid_before_utc < dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
