"""Whatever bytes come to DNS: nothing crashes, and whatever is answered is an answer to what was asked."""

from __future__ import annotations

from functools import cache

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from builders import MESH, instance
from dns_support import Answering, question
from hypothesis import given
from hypothesis import strategies as st

LABELS = (
    "rag",
    "_rag",
    "_tcp",
    "service",
    "cap",
    "node",
    "gpu",
    "alpha",
    "0a000001",
    MESH,
    "in-addr",
    "arpa",
)
KINDS = ("A", "AAAA", "SRV", "TXT", "PTR", "SOA", "NS", "ANY", "CNAME", "MX", "AXFR", "OPT", "TYPE65")


@cache
def mesh() -> Answering:
    answering = Answering()
    answering.announce("alpha", host="10.0.0.1")
    answering.hold(
        instance("rag", "alpha", host="10.0.0.1", port=1, capabilities=("gpu",)),
        instance("rag", "beta", host="10.0.0.9", port=2, ports={"gpu": 3}),
    )
    return answering


def check(data: bytes, bytes_max: int) -> None:
    """Checks what is said to some bytes, in a datagram and over TCP."""
    mesh().observed.clear()
    answers = (mesh().responder.datagram(data, bytes_max), mesh().responder.stream(data))
    assert len(mesh().observed) == 2
    for raw, limit in zip(answers, (bytes_max, 65_535), strict=True):
        if raw is None:
            continue
        assert len(raw) <= limit
        assert raw[:2] == data[:2]
        assert not data[2] & 0x80
        answer = dns.message.from_wire(raw)
        assert answer.flags & dns.flags.QR
        if answer.question:
            assert answer.question == dns.message.from_wire(data).question
        if answer.answer:
            assert answer.rcode() == dns.rcode.NOERROR
            assert all(rrset.name == answer.question[0].name for rrset in answer.answer)


@given(st.binary(max_size=600), st.integers(512, 4096))
def test_random_bytes_never_crash_it_and_are_never_answered_wrongly(data: bytes, bytes_max: int):
    check(data, bytes_max)


@given(st.binary(max_size=100), st.integers(0, 0xFFFF))
def test_random_bytes_behind_the_header_of_a_question_neither(data: bytes, number: int):
    check(number.to_bytes(2, "big") + b"\x01\0\0\1\0\0\0\0\0\1" + data, 512)


@given(st.data(), st.lists(st.sampled_from(LABELS), max_size=6), st.sampled_from(KINDS))
def test_a_question_with_some_bytes_changed_neither(data: st.DataObject, labels: list[str], kind: str):
    raw = bytearray(question(".".join([*labels, MESH]) + ".", kind, use_edns=0).to_wire())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(raw), 1232)


@given(st.lists(st.sampled_from(LABELS), max_size=7), st.sampled_from(KINDS), st.booleans())
def test_an_empty_answer_always_says_why(labels: list[str], kind: str, inside: bool):
    name = ".".join([*labels, MESH] if inside else labels) + "."
    answer = mesh().ask(name, kind, tcp=True)
    match answer.rcode():
        case dns.rcode.NOERROR if answer.answer:
            assert not answer.authority
        case dns.rcode.NOERROR | dns.rcode.NXDOMAIN:
            (soa,) = answer.authority
            assert soa.rdtype == dns.rdatatype.SOA
            assert dns.name.from_text(name).is_subdomain(soa.name)
        case other:
            assert other == dns.rcode.REFUSED
            assert not answer.flags & dns.flags.AA


@given(st.lists(st.sampled_from(LABELS), max_size=6))
def test_a_name_that_is_denied_has_no_names_below_it(labels: list[str]):
    """Resolvers that heard of it need not ask again. Source: RFC 8020."""
    name = [*labels, MESH]
    if mesh().ask(".".join(name) + ".").rcode() != dns.rcode.NOERROR:
        return
    for begin in range(len(labels)):
        assert mesh().ask(".".join(name[begin:]) + ".").rcode() == dns.rcode.NOERROR


@given(st.text(max_size=300))
def test_a_host_of_any_text_is_answered_or_left_out(text: str):
    from pmoves_mesh.views.dns import names  # noqa: PLC0415 - pure parts, for this alone

    name = names.host_name(text)
    if name is not None:
        assert dns.name.from_text(name).to_wire()
