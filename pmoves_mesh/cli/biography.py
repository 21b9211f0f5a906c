"""What the events of a stream mean for one service: when it came, how it was, where it went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.queries import with_address

Record = Mapping[str, Any]
Key = tuple[str, str]

_STATED: Final = frozenset({"registered", "updated", "health", "maintenance"})
_REMOVED: Final = frozenset({"deregistered", "unregistered"})
_TOLD_APART: Final = ("host", "port", "health_status", "health_output", "maintenance", "maintenance_reason")
_NO_NEWS: Final = frozenset({*_TOLD_APART, "name", "id", "node", "registered_at", "last_seen"})


class Happening(NamedTuple):
    """Something that happened to an instance, and the event that told it.

    Attributes:
        what: in one word.
        node: the instance's.
        id: the instance's; empty for all of the service's on that node.
        detail: in a few words more.
        event: as the agent tells it.
    """

    what: str
    node: str
    id: str
    detail: str
    event: Record


class Biography:
    """Takes a service's events, and those of the nodes that it was on, in their order."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._held: Final[dict[Key, Record]] = {}
        self._stamps: Final[dict[Key, tuple[int, int]]] = {}
        self._gone: Final[dict[Key, Record]] = {}
        self._expired: Final[set[Key]] = set()
        self._away: Final[dict[str, str]] = {}

    def take(self, event: Record) -> Iterator[Happening]:
        """Yields what happened with an event."""
        kind, data = str(event.get("type")), event.get("data")
        if event.get("refused"):
            yield self._happening("refused", f"{event['refused']}: nothing of it was believed", event)
        elif not isinstance(data, Mapping):
            return
        elif kind in _STATED:
            yield from self._stated(event, data.get("data"))
        elif kind in _REMOVED:
            yield from self._removed(event, "deregistered", "")
        elif kind == "expired":
            self._expired.add(_key(event))
            yield from self._removed(event, "expired", f"its node stayed lost, says {data.get('witness')}")
        elif kind == "evicted":
            yield from self._evicted(event, data)
        elif kind in {"mesh.node.lost.v1", "mesh.node.leave.v1"}:
            yield from self._absent(event, data, "lost" if kind == "mesh.node.lost.v1" else "left")
        elif kind == "mesh.node.announce.v1":
            yield from self._announced(event, data)

    def _stated(self, event: Record, record: object) -> Iterator[Happening]:
        if not isinstance(record, Mapping):
            return
        key = _key(event)
        before = self._held.get(key)
        self._held[key], self._stamps[key] = record, _stamp(event)
        gone = self._gone.pop(key, None)
        self._expired.discard(key)
        if before is None:
            yield self._came(event, record, gone)
        else:
            yield from self._changed(event, before, record)

    def _came(self, event: Record, record: Record, gone: Record | None) -> Happening:
        place = str(with_address(record)["address"])
        origin = self._origin(_key(event)) if gone is None else None
        if origin is not None:
            return self._happening("moved", f"from {origin} to {place} on {event.get('node')}", event)
        if event.get("type") != "registered":  # what came before it is not kept any more
            return self._happening(*_as_it_is(str(event.get("type")), record), event)
        can = ", ".join(map(str, record.get("capabilities") or ()))
        return self._happening("registered", f"at {place}" + (f", can {can}" if can else ""), event)

    def _origin(self, key: Key) -> str | None:
        """Returns the node that an instance of the same id went from, or is lost with, if there is one."""
        left = [*self._gone, *(one for one in self._held if one[0] in self._away)]
        return next((node for node, instance_id in reversed(left) if instance_id == key[1]), None)

    def _changed(self, event: Record, before: Record, record: Record) -> Iterator[Happening]:
        told = False
        for what, detail in _differences(before, record):
            told = True
            yield self._happening(what, detail, event)
        if not told and event.get("type") == "registered":
            yield self._happening("registered", "again, and nothing is different", event)

    def _removed(self, event: Record, what: str, detail: str) -> Iterator[Happening]:
        key = _key(event)
        # A removal is told twice, once in the word that older listeners know.
        if key in self._gone and key not in self._held:
            return
        self._drop(key)
        yield self._happening(what, detail, event)

    def _evicted(self, event: Record, data: Record) -> Iterator[Happening]:
        detail = f"by {data.get('operator')}" + (f": {data['reason']}" if data.get("reason") else "")
        if data.get("lifted"):
            yield self._happening("eviction lifted", detail, event)
            return
        node, instance_id = _key(event)
        for key in [one for one in self._held if one[0] == node and instance_id in {"", one[1]}]:
            self._drop(key)
        yield self._happening("evicted", detail, event)

    def _absent(self, event: Record, data: Record, what: str) -> Iterator[Happening]:
        node = str(event.get("node"))
        if node in self._away:
            return
        self._away[node] = what
        reason = f": {data['reason']}" if data.get("reason") else ""
        witness = f", says {data['witness']}" if data.get("witness") else ""
        for key in [one for one in self._held if one[0] == node]:
            yield Happening(what, *key, f"its node is {what}{witness}{reason}", event)

    def _announced(self, event: Record, data: Record) -> Iterator[Happening]:
        node, manifest = str(event.get("node")), data.get("instances")
        away = self._away.pop(node, None)
        listed = _listed(manifest, self._service)
        for key in [one for one in self._held if one[0] == node]:
            if listed is not None and key[1] not in listed and self._stamps[key] <= _stamp(event):
                self._drop(key)
                yield Happening("gone", *key, "its node does not list it any more", event)
            elif away:
                yield Happening("back", *key, f"its node was {away}", event)
        for key in [one for one in self._expired if one[0] == node and one[1] in (listed or ())]:
            self._held[key] = self._gone.pop(key, {})
            self._expired.discard(key)
            yield Happening("back", *key, "its node lists it again", event)

    def _drop(self, key: Key) -> None:
        self._gone[key] = self._held.pop(key, {})

    def _happening(self, what: str, detail: str, event: Record) -> Happening:
        node, instance_id = _key(event)
        return Happening(what, node, instance_id, detail, event)


def _key(event: Record) -> Key:
    return str(event.get("node") or ""), str(event.get("id") or "")


def _stamp(event: Record) -> tuple[int, int]:
    return int(event.get("incarnation") or 0), int(event.get("revision") or 0)


def _listed(manifest: object, service: str) -> set[str] | None:
    """Returns which instances of a service an announcement lists; None if it lists nothing at all."""
    if not isinstance(manifest, list):
        return None
    lines = (line for line in manifest if isinstance(line, Mapping))
    return {str(line.get("id")) for line in lines if line.get("name") == service}


def _as_it_is(kind: str, record: Record) -> tuple[str, str]:
    """Returns what an event says of an instance of which nothing was known."""
    match kind:
        case "health":
            return "health", str(record.get("health_status"))
        case "maintenance":
            return "maintenance", "on" if record.get("maintenance") else "off"
        case _:
            return kind, f"at {with_address(record)['address']}"


def _differences(before: Record, after: Record) -> Iterator[tuple[str, str]]:
    """Yields what is different between two records of one instance: what happened, and how."""
    places = [with_address(one)["address"] for one in (before, after)]
    if places[0] != places[1]:
        yield "moved", f"{places[0]} -> {places[1]}"
    was, now = before.get("health_status"), after.get("health_status")
    if was != now:
        output = f": {after['health_output']}" if after.get("health_output") else ""
        yield "health", f"{was} -> {now}{output}"
    if bool(before.get("maintenance")) != bool(after.get("maintenance")):
        reason = f": {after['maintenance_reason']}" if after.get("maintenance_reason") else ""
        yield "maintenance", f"on{reason}" if after.get("maintenance") else "off"
    fields = sorted(before.keys() | after.keys())
    if others := [one for one in fields if one not in _NO_NEWS and before.get(one) != after.get(one)]:
        yield "updated", ", ".join(others)


def changes(before: Record, after: Record, fields: Iterable[str]) -> str:
    """Returns the fields that are different between two records, with their values, as one line."""
    return "; ".join(f"{name}: {cell(before.get(name))} -> {cell(after.get(name))}" for name in fields)
