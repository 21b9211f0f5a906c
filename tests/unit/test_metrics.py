"""What a scrape says, as Prometheus' own parsers read it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from builders import NOW_MS, Authority, announced, instance, left, line, lost, registered
from prometheus_client import Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from pmoves_mesh import __version__
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import Event
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.pki.inventory import CertificateFact
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.latencies import Latencies
from pmoves_mesh.views.metrics import Metrics

NODE = "alpha"
DEADLINE_S = 10.0
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DAY_MS = 86_400_000


class PinnedClock(SystemClock):
    """The host's clock, but the date is always one at which the test's certificates hold."""

    def now_ms(self) -> int:
        return NOW_MS


class Measured:
    """A replica that was told some events, and its metrics."""

    def __init__(self, certificates: Sequence[CertificateFact] = ()) -> None:
        self.clock = PinnedClock()
        self.authority = Authority()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryClient(self.broker, random.Random(1))
        verifier = Verifier(self.authority.trust, MemoryBucket(self.client, "identities"), self.clock)
        self.replica = Replica(
            verifier, MemoryLog(self.client), MemoryBucket(self.client, "registry"), self.clock
        )
        self.outbox = 0
        self.readers: dict[str, Callable[[], int]] = {}
        self.metrics = Metrics(
            self.replica,
            self.clock,
            node=NODE,
            outbox_depth=lambda: self.outbox,
            certificates=lambda: certificates,
            readers=self.readers,
        )

    async def tell(self, *events: Event | SealedEvent) -> None:
        position = 0
        for event in events:
            sealed = event if isinstance(event, SealedEvent) else self.sealed(event)
            position = self.broker.publish(sealed, None)
        following = asyncio.create_task(self.replica.run())
        await self.replica.wait_position(position, DEADLINE_S)
        following.cancel()
        await asyncio.wait((following,))

    def sealed(self, event: Event) -> SealedEvent:
        author = event.witness if hasattr(event, "witness") else event.node
        return envelope.seal(event, self.authority.identity(author))

    async def scrape(self, accept: str = "") -> dict[tuple[Any, ...], float]:
        """Returns each sample's value, by its name and its labels' values in the order of their names."""
        text, content_type = await self.metrics.render(accept)
        parse = parse_open if content_type.startswith("application/openmetrics-text") else parse_plain
        return {
            (
                sample.name.removeprefix("pmoves_mesh_"),
                *(text for _, text in sorted(sample.labels.items())),
            ): (sample.value)
            for family in parse(text.decode())
            for sample in family.samples
        }


async def test_a_replica_that_never_saw_the_mesh_says_so():
    measured = await Measured().scrape()
    assert measured["replica_current",] == 0
    assert measured["replica_position",] == 0
    assert math.isinf(measured["replica_stale_seconds",])
    assert math.isnan(measured["replica_behind_events",])
    assert measured["events_total", "mesh.node.announce.v1", "applied"] == 0


async def test_instances_and_nodes_are_counted_by_health_and_status():
    here = Measured()
    await here.tell(
        registered(1, instance("whisper", "beta", health_status="healthy")),
        registered(2, instance("rag", "beta", health_status="unhealthy")),
        registered(3, instance("llm", "beta")),
        registered(1, instance("whisper", "gamma", health_status="healthy")),
        lost(1, "gamma", "beta"),
        announced(1, node="delta"),
        left(2, "delta"),
    )
    measured = await here.scrape()
    assert {name: measured["instances", name] for name in ("healthy", "unhealthy", "unknown")} == {
        "healthy": 2,
        "unhealthy": 1,
        "unknown": 1,
    }
    assert {name: measured["nodes", name] for name in ("alive", "left", "lost")} == {
        "alive": 1,
        "left": 1,
        "lost": 1,
    }
    counted = {key[1:]: value for key, value in measured.items() if key[0] == "events_total" and value}
    assert counted == {
        ("service.registry.registered", "applied"): 4,
        ("mesh.node.lost.v1", "applied"): 1,
        ("mesh.node.announce.v1", "applied"): 1,
        ("mesh.node.leave.v1", "applied"): 1,
    }
    assert measured["replica_position",] == 7


async def test_every_refusal_has_a_counter_of_its_own_that_begins_at_zero():
    here = Measured()
    stranger = Authority().identity("beta")
    await here.tell(
        SealedEvent(subject="service.registry.registered", payload=b"{}"),
        envelope.seal(registered(1, instance(node="beta")), stranger),
    )
    measured = await here.scrape()
    assert measured["rejected_total", "unsigned"] == 1
    assert measured["rejected_total", "untrusted_issuer"] == 1
    for reason in ("bad_signature", "certificate_not_held", "not_entitled", "foreign_mesh", "revoked"):
        assert measured["rejected_total", reason] == 0
    assert here.replica.verifier.rejected.total() == sum(
        value for key, value in measured.items() if key[0] == "rejected_total"
    )


async def test_a_missing_link_in_a_chain_and_what_waits_in_the_outbox_are_shown():
    here = Measured()
    here.outbox = 3
    await here.tell(announced(1, [line(1)]), registered(2, prev="ab" * 32))
    measured = await here.scrape()
    assert measured["chain_gaps_total",] == 1
    assert measured["outbox_depth",] == 3


async def test_those_who_follow_changes_are_counted_by_how_they_do():
    here = Measured()
    here.readers |= {"events": lambda: 3, "polls": lambda: 0}
    measured = await here.scrape()
    assert measured["watchers", "events"] == 3
    assert measured["watchers", "polls"] == 0


async def test_what_takes_time_is_shown_as_histograms_in_both_formats():
    here = Measured()
    latencies = Latencies(here.metrics.registry)
    latencies.http("GET", "/api/services", 200, 0.002)
    latencies.http("GET", "/api/services", 503, 20.0)
    latencies.dns("NOERROR", 0.0001)
    latencies.probe("http", True, 0.02)
    latencies.probe("tcp", False, 5.0)
    latencies.probe("docker", None, 0.1)
    latencies.lease("kept", 0.004)
    for accept in ("", OPEN):
        measured = await here.scrape(accept)
        assert measured["http_request_seconds_count", "GET", "/api/services", "200"] == 1
        assert measured["http_request_seconds_bucket", "0.0025", "GET", "/api/services", "200"] == 1
        assert measured["http_request_seconds_sum", "GET", "/api/services", "503"] == 20
        assert measured["dns_answer_seconds_bucket", "0.00025", "NOERROR"] == 1
        assert measured["probe_seconds_count", "passed", "http"] == 1
        assert measured["probe_seconds_sum", "failed", "tcp"] == 5
        assert measured["probe_seconds_count", "unknown", "docker"] == 1
        assert measured["lease_refresh_seconds_count", "kept"] == 1
        assert measured["lease_refresh_seconds_count", "failed"] == 0


async def test_a_certificate_shows_the_seconds_it_has_left_and_fewer_than_none_once_it_ended():
    fact = CertificateFact(
        kind="node", name="alpha", fingerprint="ab" * 32, not_before_ms=0, not_after_ms=NOW_MS + DAY_MS
    )
    ended = CertificateFact(
        kind="ca", name="lab", fingerprint="cd" * 32, not_before_ms=0, not_after_ms=NOW_MS - 1000
    )
    measured = await Measured([fact, ended, fact]).scrape()
    assert measured["certificate_seconds_left", "ab" * 8, "node", "alpha"] == 86400
    assert measured["certificate_seconds_left", "cd" * 8, "ca", "lab"] == -1


@pytest.mark.parametrize("accept", ["", OPEN, f"text/plain;q=0.5, {OPEN}"])
async def test_both_formats_say_the_same(accept: str):
    here = Measured()
    assert await here.scrape(accept) == pytest.approx(await here.scrape(), nan_ok=True)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (OPEN, OPEN),
        ("Application/OpenMetrics-Text; version=none of the world's", OPEN),
    ],
)
async def test_open_metrics_come_when_they_are_asked_for_and_plain_text_otherwise(accept: str, expected: str):
    text, content_type = await Measured().metrics.render(accept)
    assert content_type == expected
    assert text.endswith(b"# EOF\n") == (expected == OPEN)


async def test_every_metric_has_our_prefix_and_a_meaning_that_is_a_sentence():
    here = Measured()
    Latencies(here.metrics.registry)
    text, _ = await here.metrics.render(OPEN)
    families = list(parse_open(text.decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.name.startswith("pmoves_mesh_") for family in families)
    assert not [family.name for family in families if not family.documentation.endswith(".")]
    information = {family.name: family.samples[0].labels for family in families if family.type == "info"}
    assert information["pmoves_mesh_build"]["version"] == __version__
    assert information["pmoves_mesh_node"] == {"mesh": "pmoves-mesh", "node": NODE}


async def test_what_is_registered_beside_is_scraped_too_and_never_shared_between_agents():
    here, other = Measured(), Measured()
    histogram = Histogram("pmoves_mesh_wait_seconds", "How long.", registry=here.metrics.registry)
    histogram.observe(0.2)
    assert (await here.scrape())["wait_seconds_count",] == 1
    assert ("wait_seconds_count",) not in await other.scrape()


async def test_counting_a_large_registry_lets_the_loop_breathe():
    here = Measured()
    await here.tell(*(registered(n, instance(f"service-{n}", "beta")) for n in range(1, 3001)))
    breaths = 0

    async def breathe() -> None:
        nonlocal breaths
        while True:
            breaths += 1
            await asyncio.sleep(0)

    breathing = asyncio.create_task(breathe())
    assert (await here.scrape())["instances", "unknown"] == 3000
    breathing.cancel()
    assert breaths > 3
