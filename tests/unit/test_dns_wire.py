"""Questions and answers as bytes: sizes, truncation, EDNS, what is declined and what is dropped."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdataclass
import pytest
from builders import MESH, instance
from dns.rcode import BADVERS, FORMERR, NOERROR, NOTAUTH, NOTIMP, NXDOMAIN, REFUSED
from dns_support import Answering, hosts, question, texts

from pmoves_mesh.views.dns.responder import Recent


@pytest.fixture
def many() -> Answering:
    """A service with three hundred instances, of which no datagram holds all."""
    mesh = Answering()
    mesh.hold(*hosts(300))
    return mesh


@pytest.mark.parametrize(
    ("options", "bytes_max"),
    [
        ({}, 512),
        ({"use_edns": 0, "payload": 100}, 512),
        ({"use_edns": 0, "payload": 1000}, 1000),
        ({"use_edns": 0, "payload": 1232}, 1232),
        ({"use_edns": 0, "payload": 65_535}, 4096),
    ],
)
def test_a_datagram_is_never_longer_than_its_receiver_and_this_agent_allow(
    many: Answering, options: dict[str, int], bytes_max: int
):
    for kind in ("A", "SRV", "TXT", "ANY"):
        raw = many.responder.datagram(question("rag.service", kind, **options).to_wire(), 4096)
        assert raw is not None
        assert bytes_max - 128 < len(raw) <= bytes_max
        assert dns.message.from_wire(raw).flags & dns.flags.TC


def test_a_truncated_answer_holds_as_many_whole_records_as_fit(many: Answering):
    answer = many.ask("rag.service", "A")
    assert answer.flags & dns.flags.TC
    assert 20 < len(texts(answer)) < 40
    assert not answer.additional


def test_tcp_gives_the_whole_answer(many: Answering):
    answer = many.ask("rag.service", "SRV", tcp=True)
    assert not answer.flags & dns.flags.TC
    assert len(texts(answer)) == 300
    assert len(answer.additional) == 300


def test_what_is_left_out_of_additional_is_not_a_truncation():
    mesh = Answering()
    mesh.hold(*hosts(8))
    answer = mesh.ask("rag.service", "SRV")
    assert len(texts(answer)) == 8
    assert 0 < len(answer.additional) < 8
    assert not answer.flags & dns.flags.TC


def test_over_a_network_an_answer_is_what_every_network_carries_in_one_piece(many: Answering):
    raw = many.responder.datagram(question("rag.service", "SRV", use_edns=0, payload=9000).to_wire(), 1232)
    assert raw is not None
    assert len(raw) <= 1232


def test_edns_is_answered_with_edns_and_its_absence_with_none():
    mesh = Answering()
    plain, extended = mesh.ask("none.service"), mesh.ask("none.service", use_edns=0, want_dnssec=True)
    assert plain.edns == -1
    assert (extended.edns, extended.payload, extended.ednsflags) == (0, 1232, dns.flags.DO)


def test_an_edns_version_that_is_not_there_yet_is_declined():
    answer = Answering().ask("rag.service", use_edns=1)
    assert (answer.rcode(), answer.edns) == (BADVERS, 0)


def test_the_case_of_the_question_is_kept():
    mesh = Answering()
    mesh.hold(instance("rag", "alpha", host="10.0.0.1", port=1))
    answer = mesh.ask("rAg.SeRvIcE")
    assert answer.question[0].name.to_text() == f"rAg.SeRvIcE.{MESH}."
    assert texts(answer) == ["10.0.0.1"]


def test_recursion_is_not_offered_and_its_wish_repeated():
    answer = Answering().ask("none.service")
    assert answer.flags & dns.flags.RD
    assert not answer.flags & dns.flags.RA


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_what_is_no_query_is_not_implemented(opcode: int):
    data = bytearray(question("rag.service").to_wire())
    data[2] = opcode << 3
    raw = Answering().responder.datagram(bytes(data), 4096)
    assert raw is not None
    assert len(raw) == 12
    assert raw[:2] == bytes(data[:2])
    assert raw[3] & 15 == NOTIMP
    assert (raw[2] >> 3) & 15 == opcode


@pytest.mark.parametrize("count", [0, 2])
def test_a_message_without_exactly_one_question_is_a_format_error(count: int):
    query = question("rag.service")
    one = query.to_wire()[12:]
    raw = Answering().responder.datagram(struct.pack("!6H", 7, 0, count, 0, 0, 0) + one * count, 4096)
    assert raw is not None
    assert dns.message.from_wire(raw).rcode() == FORMERR


def test_a_question_that_is_signed_with_a_key_is_told_that_nobody_here_has_it():
    query = question("rag.service")
    query.use_tsig({dns.name.from_text("key."): b"made-up"}, "key.")
    raw = Answering().responder.datagram(query.to_wire(), 4096)
    assert raw is not None
    assert dns.message.from_wire(raw).rcode() == NOTAUTH


@pytest.mark.parametrize("kind", [dns.rdataclass.CH, dns.rdataclass.HS])
def test_other_classes_are_refused(kind: dns.rdataclass.RdataClass):
    assert Answering().ask("version.bind.", "TXT", rdclass=kind).rcode() == REFUSED


def test_the_class_any_is_that_of_the_internet():
    mesh = Answering()
    mesh.hold(instance("rag", "alpha", host="10.0.0.1", port=1))
    assert texts(mesh.ask("rag.service", rdclass=dns.rdataclass.ANY)) == ["10.0.0.1"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        question("rag.service").to_wire()[:-1],
        question("rag.service").to_wire() + b"\0",
        dns.message.make_response(question("rag.service")).to_wire(),
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\x3f",
    ],
    ids=["empty", "short", "cut", "trailing", "answer", "loop", "label"],
)
def test_what_is_no_question_gets_no_answer_and_is_counted(data: bytes):
    mesh = Answering()
    assert mesh.responder.datagram(data, 4096) is None
    assert [outcome for outcome, _ in mesh.observed] == ["dropped"]


def test_every_answer_is_observed_with_its_time_and_its_code():
    mesh = Answering()
    mesh.hold(instance("rag", "alpha", host="10.0.0.1", port=1))
    for name in ("rag.service", "rag.service", "none.service", "example.com."):
        mesh.ask(name)
    mesh.ask("rag.service", use_edns=1)
    assert [outcome for outcome, _ in mesh.observed] == [
        "NOERROR",
        "NOERROR",
        "NXDOMAIN",
        "REFUSED",
        "BADVERS",
    ]
    assert all(0 < seconds < 1 for _, seconds in mesh.observed)


def test_an_answer_that_is_kept_carries_the_id_of_its_own_question():
    mesh = Answering()
    mesh.hold(*hosts(2))
    assert [mesh.ask("rag.service", id=number).id for number in (1, 2, 3, 65_535)] == [1, 2, 3, 65_535]


def test_an_answer_is_kept_until_the_registry_changes_and_no_longer():
    mesh = Answering()
    assert mesh.ask("rag.service").rcode() == NXDOMAIN
    mesh.hold(instance("rag", "alpha", host="10.0.0.1", port=1))
    assert texts(mesh.ask("rag.service")) == ["10.0.0.1"]
    mesh.hold(instance("rag", "alpha", host="10.0.0.1", port=1, health_status="unhealthy"))
    assert (mesh.ask("rag.service").rcode(), texts(mesh.ask("rag.service"))) == (NOERROR, [])


def test_an_answer_of_the_uninformed_is_not_kept_once_it_is_informed():
    mesh = Answering(informed=False)
    before = mesh.ask("rag.service").rcode()
    mesh.replica.restore(mesh.replica.registry, "memory")
    assert before != mesh.ask("rag.service").rcode() == NXDOMAIN


def test_what_is_kept_of_ever_new_questions_is_bounded():
    kept: Recent[int, int] = Recent(count_max=10, bytes_max=1000)
    for number in range(1000):
        kept.put(number, number, 1)
        kept.get(0)
    assert len(kept) <= 20
    assert kept.get(999) == 999
    assert kept.get(0) == 0
    large: Recent[int, int] = Recent(count_max=10, bytes_max=1000)
    for number in range(5):
        large.put(number, number, 1000)
    assert len(large) == 2
