"""Whatever happens in between, an answer that was kept is the one that would be put together now."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import msgspec
from builders import (
    NOW_MS,
    Story,
    announced,
    deregistered,
    evicted,
    expired,
    instance,
    left,
    lost,
    registered,
    revoked,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import query
from pmoves_mesh.core.choice import Choice, best_first, matching
from pmoves_mesh.core.model import ManifestEntry
from pmoves_mesh.core.registry import InstanceEntry
from pmoves_mesh.views.http.encoded import EncodedInstances
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.limits import Bounds, Limits
from pmoves_mesh.views.http.quick import QuickAnswers

NODES = st.sampled_from(["alpha", "beta"])
SERVICES = st.sampled_from(["rag", "tts"])
IDS = st.sampled_from(["1", "2"])
CAPABILITIES = ("gpu", "rag", "cuda:12.8")
ASKED = ((), ("gpu",), ("gpu", "rag"), ("rag", "cuda:12.8", "gpu"))
LIMITS = (None, 1, 2, 3)


class Pinned(SystemClock):
    """A clock whose date does not move, so that answers can be compared to the last byte."""

    def now_ms(self) -> int:
        return NOW_MS


class KeptAnswers(RuleBasedStateMachine):
    """Several nodes speak in any order; what was kept is compared with what is found from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.revision = 0
        self.time_ms = NOW_MS
        replica = Mock(registry=self.story.registry, is_current=True)
        self.facade = Facade(
            replica=replica, registrar=Mock(), node="alpha", describe=Mock(), clock=Pinned(), observe=None
        )
        self.limits = Limits(Bounds(), Pinned())
        self.kept = QuickAnswers(self.facade, self.limits)

    @rule(
        node=NODES,
        service=SERVICES,
        instance_id=IDS,
        capabilities=st.lists(st.sampled_from(CAPABILITIES), max_size=3),
        maintenance=st.booleans(),
        health=st.sampled_from(["healthy", "unhealthy"]),
        in_stream=st.booleans(),
    )
    def register(
        self,
        node: str,
        service: str,
        instance_id: str,
        capabilities: list[str],
        health: str,
        *,
        maintenance: bool,
        in_stream: bool,
    ) -> None:
        record = instance(
            service,
            node,
            instance_id,
            capabilities=tuple(capabilities),
            maintenance=maintenance,
            health_status=health,
        )
        event = registered(self._next(), record)
        self.story.tell(event, position=None if in_stream else 0, time_ms=self.time_ms)

    @rule(node=NODES, service=SERVICES, instance_id=IDS)
    def repeat(self, node: str, service: str, instance_id: str) -> None:
        for entry in self._entries():
            if entry.key == (service, node, instance_id):
                self.story.tell(registered(entry.stamp.revision, entry.record), time_ms=self.time_ms)

    @rule(node=NODES, service=SERVICES, instance_id=IDS)
    def deregister(self, node: str, service: str, instance_id: str) -> None:
        event = deregistered(self._next(), instance(service, node, instance_id))
        self.story.tell(event, time_ms=self.time_ms)

    @rule(node=NODES, kept=st.none() | st.sets(st.tuples(SERVICES, IDS)))
    def announce(self, node: str, kept: set[tuple[str, str]] | None) -> None:
        lines = (
            None
            if kept is None
            else [
                ManifestEntry(name=service, id=instance_id, revision=entry.stamp.revision)
                for service, instance_id in sorted(kept)
                for entry in self._entries()
                if entry.key == (service, node, instance_id)
            ]
        )
        self.story.tell(announced(self._next(), lines, node=node), time_ms=self.time_ms)

    @rule(node=NODES)
    def leave(self, node: str) -> None:
        self.story.tell(left(self._next(), node), time_ms=self.time_ms)

    @rule(node=NODES)
    def lose(self, node: str) -> None:
        self.story.tell(lost(self.revision, node))

    @rule(node=NODES, service=SERVICES, instance_id=IDS)
    def expire(self, node: str, service: str, instance_id: str) -> None:
        self.story.tell(expired(self.revision, instance(service, node, instance_id)))

    @rule(node=NODES, service=SERVICES, instance_id=st.none() | IDS, lifted=st.booleans())
    def evict(self, node: str, service: str, instance_id: str | None, *, lifted: bool) -> None:
        self.story.tell(evicted(service, node, instance_id, lifted=lifted))

    @rule(node=NODES)
    def revoke(self, node: str) -> None:
        if self.revision > 12:  # a node whose certificate is revoked says nothing any more
            self.story.tell(revoked(self.story.identity(node).fingerprint))

    @rule()
    def let_time_pass(self) -> None:
        self.time_ms += 1500

    @invariant()
    def every_answer_is_the_one_that_would_be_put_together_now(self) -> None:
        anew = QuickAnswers(replace(self.facade, encoded=EncodedInstances()), self.limits)
        for service in ("rag", "tts"):
            lookup = b"GET /api/services/%b HTTP/1.1\r\nHost: a\r\n\r\n" % service.encode()
            best = query.resolve(self.story.registry, service, node="alpha")
            views = [query.instance_view(self.story.registry, entry) for entry in best]
            told = self._told(anew, lookup)
            if not best:
                assert told is None
                continue
            assert told is not None
            first = msgspec.json.decode(msgspec.json.encode(views[0]))
            listed = msgspec.json.decode(msgspec.json.encode(views))
            assert msgspec.json.decode(told) == first | {"instances": listed}
        for capabilities in ASKED:
            for limit in LIMITS:
                self._check_discovered(anew, capabilities, limit)

    def _check_discovered(self, anew: QuickAnswers, capabilities: tuple[str, ...], limit: int | None) -> None:
        wanted = {"capabilities": capabilities} | ({} if limit is None else {"limit": limit})
        body = msgspec.json.encode(wanted)
        head = b"POST /api/discover HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        registry = self.story.registry
        asked = Choice(capabilities=capabilities, limit=limit)
        matched = matching(registry, registry.with_capabilities(capabilities), asked)
        best = best_first(matched, asked, node="alpha")
        told = self._told(anew, head + body)
        if not best:
            assert told is None
            return
        assert told is not None
        views = [query.instance_view(registry, entry) for entry in best]
        assert told == msgspec.json.encode({"count": len(best), "services": views})

    def _told(self, anew: QuickAnswers, request: bytes) -> bytes | None:
        """Returns the body of an answer that was kept, if it was, and is that of one who kept nothing."""
        answers = [self.kept.answer(request, "127.0.0.1") for _ in range(3)]
        fresh = anew.answer(request, "127.0.0.1")
        assert answers == [fresh] * 3
        if fresh is None:
            return None
        assert b"X-Mesh-Position: %d\r\n" % self.story.registry.position in fresh
        return fresh.partition(b"\r\n\r\n")[2]

    def _entries(self) -> list[InstanceEntry]:
        return [entry for node in self.story.registry.nodes.values() for entry in node.entries.values()]

    def _next(self) -> int:
        self.revision += 1
        return self.revision


TestKeptAnswers = KeptAnswers.TestCase
TestKeptAnswers.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, print_blob=True)
