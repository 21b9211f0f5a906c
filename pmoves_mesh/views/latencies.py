"""How long things take: histograms, kept between scrapes and shown beside the other metrics.

Whoever does something that is measured gets one of these methods as a callable, and knows nothing of
metrics beyond that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_PREFIX: Final = "pmoves_mesh"
_FAST_S: Final = (
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_SLOW_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Latencies:
    """The histograms of one agent; every method takes seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Makes them.

        Args:
            registry: what is scraped; see `Metrics.registry`.
        """
        self._http = _Tallies(
            f"{_PREFIX}_http_request_seconds",
            "What answers over HTTP took; not of those who asked to wait for a change.",
            ("method", "route", "status"),
            _FAST_S,
        )
        registry.register(self._http)
        self._dns = Histogram(
            f"{_PREFIX}_dns_answer_seconds",
            "What answers over DNS took, by their response code.",
            ("rcode",),
            registry=registry,
            buckets=_FAST_S,
        )
        self._probe = Histogram(
            f"{_PREFIX}_probe_seconds",
            "What probes of this node's instances took, by the type of the check.",
            ("type", "outcome"),
            registry=registry,
            buckets=_SLOW_S,
        )
        self._lease = Histogram(
            f"{_PREFIX}_lease_refresh_seconds",
            "What refreshes of this node's lease took.",
            ("outcome",),
            registry=registry,
            buckets=_SLOW_S,
        )
        for outcome in ("kept", "failed"):
            self._lease.labels(outcome)

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Takes note of an answer over HTTP; `route` is the path with its parameters' names."""
        self._http.observe((method, route, status), seconds)

    def dns(self, rcode: str, seconds: float) -> None:
        """Takes note of an answer over DNS; `rcode` such as `NOERROR`, of a bounded set."""
        self._dns.labels(rcode).observe(seconds)

    def probe(self, kind: str, passed: bool | None, seconds: float) -> None:
        """Takes note of a probe; `passed` is None if it could not tell."""
        outcome = {True: "passed", False: "failed", None: "unknown"}[passed]
        self._probe.labels(kind, outcome).observe(seconds)

    def lease(self, outcome: str, seconds: float) -> None:
        """Takes note of a refresh of the lease: it was `kept`, or the attempt `failed`."""
        self._lease.labels(outcome).observe(seconds)


class _Tally:
    """How many observations fell into each bucket, and what all of them sum up to."""

    __slots__ = ("counts", "sum_s")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum_s = 0.0


class _Tallies(Collector):
    """A histogram that one thread alone observes: it takes no lock, and is put together when it is scraped.

    An answer that is at hand takes no longer than a lock and the look for its labels would.
    """

    def __init__(self, name: str, shown: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._shown = shown
        self._labels = labels
        self._bounds = bounds
        self._upper = [*map(floatToGoString, bounds), "+Inf"]
        self._tallies: dict[tuple[object, ...], _Tally] = {}

    def observe(self, labels: tuple[object, ...], seconds: float) -> None:
        """Takes note of what took so long."""
        tally = self._tallies.get(labels)
        if tally is None:
            tally = self._tallies[labels] = _Tally(len(self._upper))
        tally.counts[bisect_left(self._bounds, seconds)] += 1
        tally.sum_s += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yields what is shown of all observations."""
        family = HistogramMetricFamily(self._name, self._shown, labels=self._labels)
        for labels, tally in tuple(self._tallies.items()):
            counts = map(float, accumulate(tally.counts))
            buckets = list(zip(self._upper, counts, strict=True))
            family.add_metric([str(label) for label in labels], buckets, tally.sum_s)
        yield family
