"""The board: what is known of the mesh, put together from what the agent tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

Record = Mapping[str, Any]
Key = tuple[str, ...]

EVENTS_MAX: Final = 1000


class ServicesTold(NamedTuple):
    """All instances, as the watch begins."""

    records: Sequence[Record]


class ServiceTold(NamedTuple):
    """One instance that came or changed, or went."""

    record: Record
    is_gone: bool


class NodesTold(NamedTuple):
    """All nodes."""

    records: Sequence[Record]


class LoadsTold(NamedTuple):
    """The load of some nodes, by name; None for one of which nothing is known."""

    loads: Mapping[str, Record | None]


class EventsTold(NamedTuple):
    """Events of the stream, the oldest first."""

    records: Sequence[Record]


class PulseTold(NamedTuple):
    """How this host's agent is.

    Attributes:
        position: of its replica; None if it does not answer.
        is_current: whether the replica holds everything that the stream holds.
        stale_s: seconds since it did; None if it never did.
    """

    position: int | None
    is_current: bool
    stale_s: float | None


Source = Literal["services", "nodes", "events", "loads", "pulse"]


class SourceTold(NamedTuple):
    """Whether one of the sources tells what it should: empty, or why it does not."""

    source: Source
    problem: str


News = ServicesTold | ServiceTold | NodesTold | LoadsTold | EventsTold | PulseTold | SourceTold


class Board:
    """What is known, and since when it is not known any better.

    Attributes:
        services: the instances, by name, node and id.
        nodes: by name.
        loads: how busy nodes are, as far as anybody asked.
        events: the latest of the stream, the newest first.
        pulse: how the agent is; None until it was asked.
        problems: why a source tells nothing, by source.
        version: grows with every piece of news that changes a row.
    """

    def __init__(self) -> None:
        self.services: Final[dict[Key, Record]] = {}
        self.nodes: Final[dict[Key, Record]] = {}
        self.loads: Final[dict[str, Record | None]] = {}
        self.events: Final[deque[Record]] = deque(maxlen=EVENTS_MAX)
        self.pulse: PulseTold | None = None
        self.problems: Final[dict[Source, str]] = {}
        self.version = 0
        self._counted: tuple[int, str] = (-1, "")

    def take(self, news: News) -> None:
        """Takes in a piece of news."""
        match news:
            case PulseTold():
                self.pulse = news
                return
            case SourceTold(source, problem):
                self.problems[source] = problem
                return
            case ServicesTold(records):
                self.services.clear()
                self.services.update((service_key(one), one) for one in records)
            case ServiceTold(record, is_gone=True):
                self.services.pop(service_key(record), None)
            case ServiceTold(record):
                self.services[service_key(record)] = record
            case NodesTold(records):
                self.nodes.clear()
                self.nodes.update((node_key(one), one) for one in records)
            case LoadsTold(loads):
                self.loads.update(loads)
            case EventsTold(records):
                self.events.extendleft(records)
        self.version += 1

    @property
    def counts(self) -> str:
        """How much there is, and how much of that is not well, in words."""
        if self._counted[0] != self.version:
            nodes = _counted("nodes", self.nodes.values(), "status", ("lost", "left"))
            services = _counted("services", self.services.values(), "health_status", ("unhealthy",))
            self._counted = (self.version, f"{nodes}  {services}")
        return self._counted[1]

    def warning(self) -> str:
        """Returns what keeps the board from showing the mesh as it is; empty if nothing does."""
        pulse = self.pulse
        if pulse is None:
            return ""
        if pulse.position is None:
            return "NO ANSWER: this host's agent does not answer; shown is what it said last"
        if not pulse.is_current:
            since = "since its start" if pulse.stale_s is None else f"for {pulse.stale_s:.0f} s"
            return f"STALE: this agent has been cut off from the mesh {since}; shown is what it knew"
        return ""


def service_key(record: Record) -> Key:
    """Returns what an instance is known by."""
    return tuple(str(record.get(field, "")) for field in ("name", "node", "id"))


def node_key(record: Record) -> Key:
    """Returns what a node is known by."""
    return (str(record.get("name", "")),)


def event_key(record: Record) -> Key:
    """Returns what an event is known by."""
    return (str(record.get("position", "")),)


def _counted(what: str, records: Iterable[Record], field: str, bad: Sequence[str]) -> str:
    found = [record.get(field) for record in records]
    notes = [f"{count} {value}" for value in bad if (count := found.count(value))]
    return f"{len(found)} {what}" + (f" ({', '.join(notes)})" if notes else "")
