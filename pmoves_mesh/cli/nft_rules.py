"""What an nftables ruleset does with a packet that comes in: its chains are walked as the kernel does.

It is exact where every condition on the way is understood, and says so where one is not. Pure: it
reads what `nft --json list ruleset` wrote.

Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal, NamedTuple

Fate = Literal["accept", "drop", "unknown"]

_DEPTH_MAX: Final = 16
_LOOPBACK: Final = "lo"
_ENDS: Final[Mapping[str, Fate]] = {"accept": "accept", "drop": "drop", "reject": "drop", "queue": "unknown"}
_PAIR: Final = 2
_FOUND: Final = {"==": True, "in": True, "!=": False}


class Packet(NamedTuple):
    """The first packet of a TCP connection to this host.

    Attributes:
        source: its IPv4 address; empty for one that could be anybody's.
        interface: on which it comes; empty for one that could be any.
    """

    port: int
    source: str = ""
    interface: str = ""


class Ruleset:
    """Every table, as one document describes them."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Takes the document apart; what it does not know it leaves."""
        self._rules: dict[tuple[str, str, str], list[list[Any]]] = {}
        self._sets: dict[tuple[str, str, str], list[Any]] = {}
        self._bases: list[Mapping[str, Any]] = []
        for entry in document.get("nftables", ()):
            if chain := entry.get("chain"):
                self._rules.setdefault(_place(chain, chain["name"]), [])
                if chain.get("hook") == "input" and chain.get("family") in {"ip", "inet"}:
                    self._bases.append(chain)
            elif rule := entry.get("rule"):
                self._rules.setdefault(_place(rule, rule["chain"]), []).append(rule.get("expr", []))
            elif named := entry.get("set") or entry.get("map"):
                self._sets[_place(named, named["name"])] = named.get("elem", [])

    def fate(self, packet: Packet) -> tuple[Fate, str]:
        """Returns what becomes of a packet, and the chain that decides it (`family table chain`).

        One chain that drops it is enough; an uncertain one before it makes it uncertain.
        """
        unsure = ""
        for base in sorted(self._bases, key=lambda chain: chain.get("prio", 0)):
            place = _place(base, base["name"])
            fate = _Walk(self._rules, self._sets, packet).chain(place, 0) or _policy(base)
            if fate == "drop":
                return "drop", " ".join(place)
            if fate == "unknown":
                unsure = unsure or " ".join(place)
        return ("unknown", unsure) if unsure else ("accept", "")


def _policy(base: Mapping[str, Any]) -> Fate:
    return "drop" if base.get("policy") == "drop" else "accept"


def _place(thing: Mapping[str, Any], chain: str) -> tuple[str, str, str]:
    return thing["family"], thing["table"], chain


class _Walk:
    """One packet on its way through the chains of a table."""

    def __init__(
        self,
        rules: Mapping[tuple[str, str, str], list[list[Any]]],
        sets: Mapping[tuple[str, str, str], list[Any]],
        packet: Packet,
    ) -> None:
        self._rules = rules
        self._sets = sets
        self._packet = packet
        self._unsure = False

    def chain(self, place: tuple[str, str, str], depth: int) -> Fate | None:
        """Returns what a chain decides; None if the packet leaves it at its end."""
        if depth > _DEPTH_MAX:
            return "unknown"
        for expressions in self._rules.get(place, ()):
            decided = self._rule(place, expressions, depth)
            if decided == "return":
                break
            if decided is not None:
                return "unknown" if self._unsure and decided == "drop" else decided
        return None if depth or not self._unsure else "unknown"

    def _rule(
        self, place: tuple[str, str, str], expressions: list[Any], depth: int
    ) -> Fate | Literal["return"] | None:
        certain = True
        for expression in expressions:
            kind, body = _first(expression)
            if kind == "match":
                matched = self._match(place, body)
                if matched is False:
                    return None
                certain = certain and matched is True
            elif kind in {"accept", "drop", "reject", "queue", "return", "jump", "goto", "vmap"}:
                return self._verdict(place, kind, body, depth=depth, certain=certain)
            elif kind not in {"counter", "log", "comment"}:
                certain = False  # a limit, a match of iptables, or something newer than this
        return None

    def _verdict(
        self, place: tuple[str, str, str], kind: str, body: Any, *, depth: int, certain: bool
    ) -> Fate | Literal["return"] | None:
        if kind == "vmap":
            return self._mapped(place, body, depth)
        if kind in {"jump", "goto"}:
            target = (*place[:2], body["target"])
            decided = self.chain(target, depth + 1)
            if decided is None or not certain:
                self._unsure = self._unsure or (decided is not None and not certain)
                return "return" if kind == "goto" and certain else None
            return decided
        if not certain:
            # It may be let in here, or be dropped: neither is known.
            self._unsure = self._unsure or kind != "return"
            return None
        return "return" if kind == "return" else _ENDS[kind]

    def _mapped(self, place: tuple[str, str, str], body: Any, depth: int) -> Fate | Literal["return"] | None:
        for key, verdict in _pairs(self._elements(place, body.get("data"))):
            matched = self._equal(place, body.get("key"), key)
            if matched is not False:
                kind, inner = _first(verdict)
                return self._verdict(place, kind, inner, depth=depth, certain=matched is True)
        return None

    def _match(self, place: tuple[str, str, str], body: Mapping[str, Any]) -> bool | None:
        operator = body.get("op", "==")
        if operator not in _FOUND:
            return None
        equal = self._equal(place, body.get("left"), body.get("right"))
        return None if equal is None else equal == _FOUND[operator]

    def _equal(self, place: tuple[str, str, str], left: Any, right: Any) -> bool | None:
        """Returns whether what a packet has is among what is asked for; None if that is not understood."""
        found = _value(left, self._packet)
        if found is None:
            # Whoever comes from another host does not come through the loopback device.
            return False if _is_interface(left) and self._elements(place, right) == [_LOOPBACK] else None
        results = [_covers(wanted, found) for wanted in self._elements(place, right)]
        if True in results:
            return True
        return None if None in results else False

    def _elements(self, place: tuple[str, str, str], right: Any) -> Iterable[Any]:
        if isinstance(right, str) and right.startswith("@"):
            return self._sets.get((*place[:2], right[1:]), ())
        if isinstance(right, Mapping) and "set" in right:
            found = right["set"]
            return found if isinstance(found, list) else [found]
        return right if isinstance(right, list) else [right]


def _value(left: Any, packet: Packet) -> str | int | None:
    """Returns what a packet has where an expression looks; None if that is not known of it."""
    kind, body = _first(left)
    known: dict[tuple[str, str, str], str | int] = {
        ("payload", "tcp", "dport"): packet.port,
        ("payload", "th", "dport"): packet.port,
        ("payload", "udp", "dport"): -1,
        ("payload", "ip", "protocol"): "tcp",
        ("payload", "ip", "saddr"): packet.source,
        ("payload", "ip6", "saddr"): "never",
        ("payload", "icmp", "type"): "never",
        ("payload", "icmpv6", "type"): "never",
        ("meta", "", "l4proto"): "tcp",
        ("meta", "", "nfproto"): "ipv4",
        ("meta", "", "protocol"): "ip",
        ("meta", "", "iifname"): packet.interface,
        ("meta", "", "iif"): packet.interface,
        ("ct", "", "state"): "new",
    }
    if not isinstance(body, Mapping):
        return None
    field = str(body.get("field", body.get("key", "")))
    value = known.get((kind, str(body.get("protocol", "")), field))
    return None if value == "" else value


def _is_interface(left: Any) -> bool:
    kind, body = _first(left)
    return kind == "meta" and body.get("key") in {"iif", "iifname"}


def _covers(wanted: Any, found: str | int) -> bool | None:
    """Returns whether one value, range or network that is asked for covers another."""
    kind, body = _first(wanted) if isinstance(wanted, Mapping) else ("", wanted)
    if kind == "elem":
        return _covers(body.get("val"), found)
    if kind == "prefix":
        return _within(f"{body['addr']}/{body['len']}", found)
    if kind == "range":
        return _between(body, found)
    if kind:
        return None
    if isinstance(body, str) and body.endswith("*"):
        return str(found).startswith(body[:-1])
    return str(body) == str(found)


def _between(bounds: list[Any], found: str | int) -> bool | None:
    low, high = bounds[0], bounds[1]
    if isinstance(found, int) and isinstance(low, int):
        return bool(low <= found <= high)
    try:
        return int(ip_address(low)) <= int(ip_address(str(found))) <= int(ip_address(high))
    except ValueError:
        return None


def _within(network: str, found: str | int) -> bool | None:
    try:
        return ip_address(str(found)) in ip_network(network, strict=False)
    except ValueError:
        return False


def _pairs(elements: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((pair[0], pair[1]) for pair in elements if isinstance(pair, list) and len(pair) == _PAIR)


def _first(expression: Any) -> tuple[str, Any]:
    """Returns the one key of an object and what it holds; nothing if it is none."""
    if isinstance(expression, str):
        return expression, None
    return next(iter(expression.items()), ("", None)) if isinstance(expression, Mapping) else ("", None)
