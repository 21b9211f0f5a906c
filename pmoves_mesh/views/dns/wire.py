"""Questions and answers as bytes.

Source: RFC 1035 section 4, RFC 6891 (EDNS0), RFC 2181 section 9 (truncation), RFC 8914 (extended errors).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import dns.exception
import dns.message
from dns.edns import EDECode, EDEOption, OptionType
from dns.flags import AA, DO, QR, RD, TC
from dns.message import Message, UnknownTSIGKey
from dns.opcode import QUERY
from dns.rcode import FORMERR, NOTAUTH, NOTIMP, SERVFAIL, Rcode
from dns.rdataclass import IN
from dns.rdatatype import CNAME, OPT
from msgspec import Struct

from pmoves_mesh.views.dns.records import Data, encoded_name
from pmoves_mesh.views.dns.zone import Record, Reply

HEADER_BYTES: Final = 12
PLAIN_BYTES_MAX: Final = 512
"""How long an answer over UDP may be to whoever says nothing of it."""

ACCEPTED_BYTES_MAX: Final = 1232
"""How long a question over UDP should be: what every network carries in one piece. Source: RFC 9715."""

_ROOT: Final = b"\0"
_ASKED: Final = b"\xc0\x0c"
"""The name of the question, as it stands right behind the header. Source: RFC 1035 section 4.1.4."""

_SECTIONS: Final = bytes(8)
_BASIC_EDNS: Final = 0
_BAD_VERSION: Final = 16
_UNINFORMED: Final = "this agent has not seen the mesh yet"


class Ttls(Struct, frozen=True):
    """For how many seconds others may remember what is there, and what is not."""

    positive_s: int
    negative_s: int


class Malformed(Exception):
    """What came is no question, so that nothing is answered."""


class Declined(Exception):
    """What came is a message that is not served.

    Attributes:
        answer: says so.
        rcode: how.
    """

    def __init__(self, answer: bytes, rcode: Rcode) -> None:
        super().__init__(rcode)
        self.answer = answer
        self.rcode = rcode


def decode(data: bytes) -> Message:
    """Returns a question.

    Raises:
        Malformed: if it is none.
        Declined: if it is of a kind that is not served, or asks for an EDNS that is not there yet.
    """
    if len(data) < HEADER_BYTES:
        raise Malformed
    flags, questions = struct.unpack_from("!HH", data, 2)
    if flags & QR:
        raise Malformed
    if (flags >> 11) & 15 != QUERY:
        raise Declined(_header_only(data, flags, NOTIMP), NOTIMP)
    try:
        query = dns.message.from_wire(data)
    except UnknownTSIGKey:
        raise Declined(_header_only(data, flags, NOTAUTH), NOTAUTH) from None  # no key is known here
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        raise Malformed from error
    if questions != 1 or len(query.question) != 1:
        raise Declined(_header_only(data, flags, FORMERR), FORMERR)
    if query.edns > _BASIC_EDNS:
        response = dns.message.make_response(query, our_payload=ACCEPTED_BYTES_MAX)
        response.set_rcode(Rcode(_BAD_VERSION))
        raise Declined(response.to_wire(max_size=PLAIN_BYTES_MAX), Rcode(_BAD_VERSION))
    return query


def room(query: Message, bytes_max: int) -> int:
    """Returns how long an answer over UDP may be.

    Args:
        query: says what its sender takes.
        bytes_max: the most that is sent, whatever that is.
    """
    return PLAIN_BYTES_MAX if query.edns < 0 else max(PLAIN_BYTES_MAX, min(query.payload, bytes_max))


def encode(query: Message, reply: Reply, records: Sequence[Record], ttls: Ttls, bytes_max: int) -> bytes:
    """Returns the answer to a question; as many records as there is room for, and TC if those are not all.

    Args:
        query: the question.
        reply: what is said to it.
        records: those of the reply, in the order that is wanted here.
        ttls: for how long it may be remembered.
        bytes_max: how long the answer may be.
    """
    asked = query.question[0]
    question = (asked.name.to_wire() or b"") + struct.pack("!HH", asked.rdtype, asked.rdclass)
    options = _edns(query, reply.rcode)
    left = bytes_max - HEADER_BYTES - len(question) - len(options)
    if records and records[0].data.kind == CNAME:
        records = records[:1]  # a name has one alias, if any. Source: RFC 1034 section 3.6.2.
    answers, left = _fitting((_record(_ASKED, record.data, ttls.positive_s) for record in records), left)
    truncated = len(answers) < len(records)
    authority: list[bytes] = []
    if reply.soa is not None and reply.zone is not None:
        # Its own TTL says for how long nothing is there. Source: RFC 2308 section 5.
        soa = _record(encoded_name(reply.zone), reply.soa, ttls.negative_s)
        authority, left = _fitting([soa], left)
    wanted = dict.fromkeys(pair for record in records[: len(answers)] for pair in record.additional)
    more = (_record(encoded_name(name), data, ttls.positive_s) for name, data in wanted)
    additional, _ = _fitting(more, 0 if truncated else left)
    flags = QR | (AA if reply.zone is not None else 0) | (TC if truncated else 0) | (query.flags & RD)
    counts = (1, len(answers), len(authority), len(additional) + bool(options))
    header = struct.pack("!HHHHHH", query.id, flags | reply.rcode, *counts)
    return b"".join((header, question, *answers, *authority, *additional, options))


def _fitting(records: Iterable[bytes], left: int) -> tuple[list[bytes], int]:
    """Returns as many of the first records as fit, and how many bytes are left then."""
    taken = []
    for record in records:
        if len(record) > left:
            break
        left -= len(record)
        taken.append(record)
    return taken, left


def _record(name: bytes, data: Data, ttl_s: int) -> bytes:
    return name + struct.pack("!HHIH", data.kind, IN, ttl_s, len(data.encoded)) + data.encoded


def _edns(query: Message, rcode: Rcode) -> bytes:
    """Returns the OPT record of an answer; nothing for whoever sent none."""
    if query.edns < 0:
        return b""
    told = b""
    if rcode == SERVFAIL:
        told = EDEOption(EDECode.NOT_READY, _UNINFORMED).to_wire() or b""
        told = struct.pack("!HH", OptionType.EDE, len(told)) + told
    flags = query.ednsflags & DO
    return _ROOT + struct.pack("!HHIH", OPT, ACCEPTED_BYTES_MAX, flags, len(told)) + told


def _header_only(data: bytes, flags: int, rcode: Rcode) -> bytes:
    """Returns an answer that repeats nothing of the question but its id. Source: RFC 9619."""
    return data[:2] + struct.pack("!H", QR | (flags & (RD | 0x7800)) | rcode) + _SECTIONS
