"""The registry's indexes always say what a walk over everything would say."""

from __future__ import annotations

from builders import (
    NOW_MS,
    Story,
    announced,
    deregistered,
    discovered,
    evicted,
    expired,
    instance,
    left,
    registered,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmoves_mesh.core import query
from pmoves_mesh.core.model import ManifestEntry
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registry import InstanceEntry

NODES = st.sampled_from(["alpha", "beta"])
SERVICES = st.sampled_from(["rag", "tts"])
IDS = st.sampled_from(["1", "2"])
CAPABILITIES = ("gpu", "rag", "cuda:12.8")


class Indexes(RuleBasedStateMachine):
    """Several nodes speak in any order; every look-up is checked against a naive scan."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.revision = 0

    @rule(
        node=NODES,
        service=SERVICES,
        instance_id=IDS,
        capabilities=st.lists(st.sampled_from(CAPABILITIES), max_size=3),
        maintenance=st.booleans(),
    )
    def register(
        self, node: str, service: str, instance_id: str, capabilities: list[str], *, maintenance: bool
    ) -> None:
        record = instance(
            service, node, instance_id, capabilities=tuple(capabilities), maintenance=maintenance
        )
        self.story.tell(registered(self._next(), record))

    @rule(node=NODES, service=SERVICES, instance_id=IDS)
    def deregister(self, node: str, service: str, instance_id: str) -> None:
        self.story.tell(deregistered(self._next(), instance(service, node, instance_id)))

    @rule(node=NODES, kept=st.sets(st.tuples(SERVICES, IDS)))
    def announce(self, node: str, kept: set[tuple[str, str]]) -> None:
        lines = [
            ManifestEntry(name=service, id=instance_id, revision=entry.stamp.revision)
            for service, instance_id in sorted(kept)
            for entry in self._entries()
            if entry.key == (service, node, instance_id)
        ]
        self.story.tell(announced(self._next(), lines, node=node))

    @rule(node=NODES)
    def leave(self, node: str) -> None:
        self.story.tell(left(self._next(), node))

    @rule(node=NODES, service=SERVICES, instance_id=IDS)
    def expire(self, node: str, service: str, instance_id: str) -> None:
        self.story.tell(expired(self.revision, instance(service, node, instance_id)))

    @rule(node=NODES, service=SERVICES, instance_id=st.none() | IDS, lifted=st.booleans())
    def evict(self, node: str, service: str, instance_id: str | None, *, lifted: bool) -> None:
        self.story.tell(evicted(service, node, instance_id, lifted=lifted))

    @rule(node=NODES, port=st.integers(0, 2))
    def announce_unsigned(self, node: str, port: int) -> None:
        payload = b'{"node":"%s","port":%d,"capabilities":["gpu"]}' % (node.encode(), port)
        self.story.tell_unsigned("mesh.node.announce.v1", payload)

    @invariant()
    def every_look_up_agrees_with_a_scan(self) -> None:
        registry = self.story.registry
        held = self._entries()
        assert len(registry) == len(held)
        assert _keys(registry.entries()) == _keys(held)
        assert set(registry.services()) == {entry.record.name for entry in held}
        for service in ("rag", "tts", "alpha"):
            assert _keys(registry.of_service(service)) == _keys(e for e in held if e.record.name == service)
        for wanted in ((), ("gpu",), ("gpu", "rag"), ("rag", "cuda:12.8", "gpu"), ("none",)):
            having = [entry for entry in held if set(wanted) <= set(entry.record.capabilities)]
            assert _keys(registry.with_capabilities(wanted)) == _keys(having)
        assert all(registry.entry(entry.key) is entry for entry in held)

    @invariant()
    def every_query_agrees_with_a_scan(self) -> None:
        registry = self.story.registry
        seen = [entry for entry in self._entries() if registry.is_listed(entry)]
        assert _keys(query.find(registry, Filter())) == _keys(seen)
        named = Filter(name="rag", node="alpha", capabilities=("gpu",))
        assert _keys(query.find(registry, named)) == _keys(
            entry
            for entry in seen
            if entry.key[:2] == ("rag", "alpha") and "gpu" in entry.record.capabilities
        )
        living = {name for name, node in registry.nodes.items() if node.status == "alive"}
        assert _keys(discovered(registry, ("gpu",))) == _keys(
            entry
            for entry in seen
            if entry.record.node in living
            and "gpu" in entry.record.capabilities
            and not entry.record.maintenance
        )
        assert all(query.instance_view(registry, entry).last_seen for entry in seen)
        assert all(entry.time_ms == NOW_MS for entry in seen)

    def _entries(self) -> list[InstanceEntry]:
        return [entry for node in self.story.registry.nodes.values() for entry in node.entries.values()]

    def _next(self) -> int:
        self.revision += 1
        return self.revision


def _keys(entries: object) -> list[tuple[str, str, str]]:
    return sorted(tuple(entry.key) for entry in entries)  # type: ignore[attr-defined]


TestIndexes = Indexes.TestCase
TestIndexes.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, print_blob=True)
