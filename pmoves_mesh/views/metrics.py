"""The metrics view: what Prometheus scrapes, read from the replica at the moment of the scrape.

Nothing is counted here that somebody else counts already, and nothing is kept in globals: what
measures durations registers with `Metrics.registry`, which every scrape includes.
"""

from __future__ import annotations

import asyncio
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Final, get_args

from msgspec import Struct
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as open_exposition
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPEN
from prometheus_client.registry import Collector

from pmoves_mesh import __version__
from pmoves_mesh.core.change import Outcome
from pmoves_mesh.core.event import EVENT_TYPES
from pmoves_mesh.core.names import HealthStatus, NodeStatus
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import RemoteProtocolError
from pmoves_mesh.pki.inventory import CertificateFact
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Repair, Replica

OPENMETRICS: Final = "application/openmetrics-text"

_PREFIX: Final = "pmoves_mesh"
_SUBJECTS: Final = tuple(kind.subject for kind in EVENT_TYPES)
_AT_ONCE: Final = 1000
_FINGERPRINT_SHOWN: Final = 16

_open_text: Final[Callable[[CollectorRegistry], bytes]] = open_exposition.generate_latest
_plain_text: Final[Callable[[CollectorRegistry], bytes]] = exposition.generate_latest


class Reading(Struct, frozen=True, kw_only=True):
    """Every value of one scrape.

    Attributes:
        behind: how many events of the stream are not folded in yet; not a number while that is not known.
        stale_s: seconds since the replica was last current; infinite if it never was.
        events: how many were folded in, by subject and outcome.
        outbox: how many events wait to be sent.
        gaps: how many links in nodes' chains of events were missing.
        repairs: how often a disagreement was mended, by kind.
        instances: how many are listed, by health.
        readers: how many follow a change, by how they do.
        nodes: how many are known, by status.
        certificates: those of this host.
        now_ms: when it was read, unix milliseconds.
    """

    mesh: str
    node: str
    position: int
    current: bool
    behind: float
    stale_s: float
    outbox: int
    gaps: int
    events: dict[tuple[str, str], int]
    rejected: dict[str, int]
    repairs: dict[str, int]
    instances: dict[str, int]
    nodes: dict[str, int]
    readers: dict[str, int]
    certificates: Sequence[CertificateFact]
    now_ms: int


class Metrics:
    """Answers scrapes.

    Attributes:
        registry: for metrics that are kept between scrapes, such as histograms.
    """

    def __init__(
        self,
        replica: Replica,
        clock: Clock,
        *,
        node: str,
        outbox_depth: Callable[[], int],
        certificates: Callable[[], Sequence[CertificateFact]],
        readers: Mapping[str, Callable[[], int]] | None = None,
    ) -> None:
        """Takes where the values come from.

        Args:
            replica: the registry, and what was made of the events.
            clock: the time.
            node: this node's name.
            outbox_depth: returns how many events wait to be sent.
            certificates: returns those of this host; called in a thread, and may read files.
            readers: returns how many follow a change, by how they do.
        """
        self.registry: Final = CollectorRegistry()
        self._replica = replica
        self._clock = clock
        self._node = node
        self._outbox_depth = outbox_depth
        self._certificates = certificates
        self._readers = {} if readers is None else readers

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Returns the metrics as text, and its content type.

        A large registry is counted in slices, and what blocks is done in a thread.

        Args:
            accept: the reader's `Accept`: OpenMetrics if it names that, else Prometheus' own text.

        Source: OpenMetrics 1.0; Prometheus text format 0.0.4.
        """
        return await asyncio.to_thread(self._text, await self._read(), accept)

    async def _read(self) -> Reading:
        certificates = await asyncio.to_thread(self._certificates)
        replica = self._replica
        instances = await _healths(replica.registry)
        statuses: Counter[str] = Counter(node.status for node in replica.registry.nodes.values())
        stale_s = replica.stale_s
        return Reading(
            mesh=replica.verifier.trust.mesh,
            node=self._node,
            position=replica.position,
            current=replica.is_current,
            behind=math.nan if replica.pending is None else replica.pending,
            stale_s=math.inf if stale_s is None else stale_s,
            outbox=self._outbox_depth(),
            gaps=replica.gaps,
            events=dict.fromkeys(product(_SUBJECTS, get_args(Outcome)), 0) | replica.outcomes,
            rejected=dict.fromkeys(sorted(_reasons(RemoteProtocolError)), 0) | replica.verifier.rejected,
            repairs=_every(Repair, replica.repairs),
            instances=_every(HealthStatus, instances),
            nodes=_every(NodeStatus, statuses),
            readers={name: count() for name, count in self._readers.items()},
            certificates=certificates,
            now_ms=self._clock.now_ms(),
        )

    def _text(self, reading: Reading, accept: str) -> tuple[bytes, str]:
        scrape = CollectorRegistry()
        scrape.register(_Collected(reading))
        scrape.register(self.registry)
        if OPENMETRICS in accept.lower():
            return _open_text(scrape), CONTENT_TYPE_OPEN
        return _plain_text(scrape), CONTENT_TYPE_PLAIN_0_0_4


class _Collected(Collector):
    """One reading, as prometheus-client wants it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics, each once."""
        reading = self._reading
        yield _info(
            "build", "What this agent runs on.", {"version": __version__, "python": platform.python_version()}
        )
        yield _info("node", "Which node this is.", {"mesh": reading.mesh, "node": reading.node})
        yield from _of_replica(reading)
        yield _gauges("instances", "Instances that are listed, by health.", "health", reading.instances)
        yield _gauges("nodes", "Nodes that are known, by status.", "status", reading.nodes)
        yield _gauges("watchers", "Readers that follow changes, by how they do.", "kind", reading.readers)
        yield _of_certificates(reading)


def _of_replica(reading: Reading) -> Iterable[Metric]:
    events = CounterMetricFamily(
        f"{_PREFIX}_events", "Events that were folded in, by kind and outcome.", labels=("kind", "outcome")
    )
    for labels, count in reading.events.items():
        events.add_metric(labels, count)
    yield events
    yield _counters("rejected", "Events that were not accepted, by reason.", "reason", reading.rejected)
    yield _counters("repairs", "Disagreements that were found and mended, by kind.", "kind", reading.repairs)
    yield CounterMetricFamily(
        f"{_PREFIX}_chain_gaps", "Links that were missing in nodes' chains of events.", reading.gaps
    )
    for name, meaning, value in (
        ("replica_position", "Position of the stream up to which events were folded in.", reading.position),
        ("replica_current", "1 if everything that the stream holds was folded in, else 0.", reading.current),
        (
            "replica_behind_events",
            "Events of the stream that are not folded in yet; NaN while that is not known.",
            reading.behind,
        ),
        (
            "replica_stale_seconds",
            "Seconds since the replica was last current; +Inf if it never was.",
            reading.stale_s,
        ),
        ("outbox_depth", "Events that wait to be sent to the stream.", reading.outbox),
    ):
        yield GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, value)


def _of_certificates(reading: Reading) -> Metric:
    """Returns the time that each certificate has left; one that stands in two files counts once."""
    family = GaugeMetricFamily(
        f"{_PREFIX}_certificate_seconds_left",
        "Seconds until a certificate of this host ends; negative once it has.",
        labels=("kind", "name", "fingerprint"),
    )
    left_s = {
        (fact.kind, fact.name, fact.fingerprint[:_FINGERPRINT_SHOWN]): fact.not_after_ms - reading.now_ms
        for fact in reading.certificates
    }
    for labels, left_ms in left_s.items():
        family.add_metric(labels, left_ms / 1000)
    return family


def _counters(name: str, meaning: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", meaning, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family


def _gauges(name: str, meaning: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family


def _info(name: str, meaning: str, values: dict[str, str]) -> Metric:
    return InfoMetricFamily(f"{_PREFIX}_{name}", meaning, values)


async def _healths(registry: Registry) -> Counter[str]:
    """Counts the listed instances by health, in slices, while the registry may change."""
    found: Counter[str] = Counter()
    seen = 0
    for service in tuple(registry.services()):
        for entry in tuple(registry.of_service(service)):
            found[entry.record.health_status] += registry.is_listed(entry)
            seen += 1
            if seen % _AT_ONCE == 0:
                await asyncio.sleep(0)
    return found


def _every(names: object, counts: Mapping[str, int]) -> dict[str, int]:
    """Returns a count for every name of a literal type, 0 for those that were not seen."""
    return dict.fromkeys(get_args(names), 0) | dict(counts)


def _reasons(error: type[RemoteProtocolError]) -> set[str]:
    """Returns every reason for which an event can be refused, so that each counter begins at 0."""
    return {error.reason}.union(*map(_reasons, error.__subclasses__()))
