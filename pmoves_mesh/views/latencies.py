"""How long things take: histograms, kept between scrapes and shown beside the other metrics.

Whoever does something that is measured gets one of these methods as a callable, and knows nothing of
metrics beyond that.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Histogram

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
        self._http = Histogram(
            f"{_PREFIX}_http_request_seconds",
            "What answers over HTTP took; not of those who asked to wait for a change.",
            ("method", "route", "status"),
            registry=registry,
            buckets=_FAST_S,
        )
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
        self._http.labels(method, route, str(status)).observe(seconds)

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
