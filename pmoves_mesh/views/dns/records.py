"""Resource records, made from what the registry holds, and encoded once however often they are told.

Source: RFC 1035 section 3.3, RFC 2782 (SRV), RFC 3596 (AAAA), RFC 6763 section 6 (TXT).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

import dns.name
import msgspec
from dns import rdatatype
from dns.rdata import Rdata
from dns.rdataclass import IN
from dns.rdtypes.ANY import CNAME, NS, PTR, SOA, TXT
from dns.rdtypes.IN import AAAA, SRV, A

from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.views.dns.names import Address

WEIGHT_UNIT: Final = 256
"""The SRV weight of an instance whose own weight is 1: HAProxy makes of it 1 again."""

_make_a: Final[Callable[..., Rdata]] = A.A
_make_aaaa: Final[Callable[..., Rdata]] = AAAA.AAAA
_make_cname: Final[Callable[..., Rdata]] = CNAME.CNAME
_make_ns: Final[Callable[..., Rdata]] = NS.NS
_make_ptr: Final[Callable[..., Rdata]] = PTR.PTR
_make_soa: Final[Callable[..., Rdata]] = SOA.SOA
_make_srv: Final[Callable[..., Rdata]] = SRV.SRV
_make_txt: Final[Callable[..., Rdata]] = TXT.TXT

_PRIORITY: Final = 1
_WEIGHT_MAX: Final = 65_535
_REFRESH_S: Final = 3600
_RETRY_S: Final = 600
_EXPIRE_S: Final = 86_400
_SERIAL_RANGE: Final = 1 << 32
_TEXT_BYTES_MAX: Final = 255
_TEXTS_MAX: Final = 128
_REMEMBERED_MAX: Final = 16_384


class Data(NamedTuple):
    """What a resource record says, without the name that it says it of.

    Attributes:
        kind: its type.
        encoded: its RDATA.
    """

    kind: int
    encoded: bytes


@lru_cache(_REMEMBERED_MAX)
def encoded_name(name: str) -> bytes:
    """Returns a name as bytes. Source: RFC 1035 section 3.1."""
    return _name(name).to_wire() or b""


@lru_cache(_REMEMBERED_MAX)
def address_record(address: Address) -> Data:
    """Returns an A or AAAA record."""
    if isinstance(address, IPv6Address):
        return _data(_make_aaaa(IN, rdatatype.AAAA, str(address)))
    return _data(_make_a(IN, rdatatype.A, str(address)))


@lru_cache(_REMEMBERED_MAX)
def alias_record(name: str) -> Data:
    """Returns a CNAME record."""
    return _data(_make_cname(IN, rdatatype.CNAME, _name(name)))


def server_record(name: str) -> Data:
    """Returns an NS record."""
    return _data(_make_ns(IN, rdatatype.NS, _name(name)))


def pointer_record(name: str) -> Data:
    """Returns a PTR record."""
    return _data(_make_ptr(IN, rdatatype.PTR, _name(name)))


def authority_record(server: str, mailbox: str, position: int, negative_ttl_s: int) -> Data:
    """Returns an SOA record, whose serial is a position of the stream. Source: RFC 1982."""
    names = (_name(server), _name(mailbox))
    times_s = (_REFRESH_S, _RETRY_S, _EXPIRE_S, negative_ttl_s)
    return _data(_make_soa(IN, rdatatype.SOA, *names, position % _SERIAL_RANGE, *times_s))


def service_record(instance: Instance, port: int, target: str) -> Data:
    """Returns an SRV record; its weight follows the `weight` of the instance's metadata."""
    weight = instance.metadata.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
        weight = 1
    return _service(min(_WEIGHT_MAX, round(min(weight, _WEIGHT_MAX) * WEIGHT_UNIT)), port, target)


@lru_cache(_REMEMBERED_MAX)
def _service(weight: int, port: int, target: str) -> Data:
    return _data(_make_srv(IN, rdatatype.SRV, _PRIORITY, weight, port, _name(target)))


def instance_text(instance: Instance) -> Data:
    """Returns a TXT record that says which instance it is, and its metadata, `key=value` each."""
    return _text({"id": instance.id, "node": instance.node, "mode": instance.mode}, instance.metadata)


def node_text(node: NodeEntry) -> Data:
    """Returns a TXT record with what a node says of itself."""
    announced = node.announced
    if announced is None:
        return _text({"node": node.name, "status": node.status}, {})
    said = {"node": node.name, "status": node.status, "mode": announced.mode}
    return _text(said | {"capabilities": ",".join(announced.capabilities)}, announced.resources)


def _text(first: Mapping[str, str], then: Mapping[str, Any]) -> Data:
    """Returns pairs as `key=value`, those first which are ours: of two with one key the first one counts."""
    texts = []
    for key, value in (*first.items(), *then.items()):
        shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        text = f"{key}={shown}".encode(errors="replace")
        # A longer one has no form, and a key is printable and holds no "=". Source: RFC 6763 section 6.4.
        if len(text) <= _TEXT_BYTES_MAX and key and key.isascii() and key.isprintable() and "=" not in key:
            texts.append(text)
    return _data(_make_txt(IN, rdatatype.TXT, texts[:_TEXTS_MAX]))


def _data(made: Rdata) -> Data:
    return Data(int(made.rdtype), made.to_wire() or b"")


@lru_cache(_REMEMBERED_MAX)
def _name(name: str) -> dns.name.Name:
    return dns.name.from_text(name)
