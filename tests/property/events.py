"""Strategies for every kind of event, within the bounds that an event has."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from pmoves_mesh.core.event import (
    EVENT_TYPES,
    CertificatesRevoked,
    EnrolmentRefused,
    Event,
    IdentityIssued,
    InstanceEvicted,
    InstanceExpired,
    NodeAnnounced,
    NodeCloned,
    NodeLeft,
    NodeLost,
    RetiredRoot,
    RootsRotated,
)
from pmoves_mesh.core.model import Instance, ManifestEntry

LABELS: Final = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
IDS: Final = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", fullmatch=True)
CAPABILITIES: Final = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._:/+ -]{0,62}[A-Za-z0-9+])?", fullmatch=True)
HOSTS: Final = st.from_regex(r"[A-Za-z0-9:\[][A-Za-z0-9.:_%\[\]-]{0,30}", fullmatch=True)
PORTS: Final = st.integers(0, 65535)
COUNTERS: Final = st.integers(0, 2**62)
TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=40)
DIGESTS: Final = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
SECONDS: Final = st.floats(0, 1e12)
MODES: Final = st.sampled_from(["docked", "standalone"])
JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS: Final = st.dictionaries(TEXT, JSON, max_size=4)

_CAPABILITY_SETS: Final = st.lists(CAPABILITIES, max_size=4).map(tuple)
_HEAD: Final[dict[str, Any]] = {
    "mesh": LABELS,
    "node": LABELS,
    "incarnation": COUNTERS,
    "revision": COUNTERS,
    "prev": st.just("") | DIGESTS,
    "timestamp": TEXT,
}

INSTANCES: Final = st.builds(
    Instance,
    name=LABELS,
    id=IDS,
    node=LABELS,
    host=HOSTS,
    port=PORTS,
    ports=st.dictionaries(LABELS, PORTS, max_size=3),
    mode=MODES,
    capabilities=_CAPABILITY_SETS,
    health_url=st.none() | TEXT,
    health_status=st.sampled_from(["healthy", "unhealthy", "unknown"]),
    health_output=TEXT,
    maintenance=st.booleans(),
    metadata=OBJECTS,
    deregister_after=st.floats(1e-3, 1e9),
    registered_at=TEXT,
    last_seen=TEXT,
)
_MANIFESTS: Final = st.lists(
    st.builds(ManifestEntry, name=LABELS, id=IDS, revision=COUNTERS, incarnation=st.none() | COUNTERS),
    max_size=4,
).map(tuple)
_OTHERS: Final[dict[type[Any], st.SearchStrategy[Any]]] = {
    NodeAnnounced: st.builds(
        NodeAnnounced,
        **_HEAD,
        node_id=TEXT,
        hostname=TEXT,
        host=HOSTS,
        port=PORTS,
        mode=MODES,
        caps=st.dictionaries(CAPABILITIES, st.booleans(), max_size=3),
        capabilities=_CAPABILITY_SETS,
        services_running=st.lists(TEXT, max_size=3).map(tuple),
        tailscale_ip=st.none() | TEXT,
        ts=SECONDS,
        version=TEXT,
        resources=OBJECTS,
        instances=st.none() | _MANIFESTS,
    ),
    NodeLeft: st.builds(NodeLeft, **_HEAD, reason=TEXT),
    NodeLost: st.builds(NodeLost, **_HEAD, witness=LABELS, reason=TEXT),
    InstanceExpired: st.builds(InstanceExpired, **_HEAD, service=LABELS, id=IDS, witness=LABELS),
    InstanceEvicted: st.builds(
        InstanceEvicted,
        **_HEAD,
        service=LABELS,
        id=st.none() | IDS,
        operator=LABELS,
        lifted=st.booleans(),
        reason=TEXT,
    ),
    CertificatesRevoked: st.builds(
        CertificatesRevoked,
        **_HEAD,
        operator=LABELS,
        fingerprints=st.lists(DIGESTS, max_size=3).map(tuple),
        reason=TEXT,
    ),
    RootsRotated: st.builds(
        RootsRotated,
        **_HEAD,
        operator=LABELS,
        roots=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        retired=st.lists(st.builds(RetiredRoot, certificate=TEXT, position=COUNTERS), max_size=2).map(tuple),
    ),
    NodeCloned: st.builds(NodeCloned, **_HEAD, host=TEXT, clone=COUNTERS),
    IdentityIssued: st.builds(
        IdentityIssued, **_HEAD, identity=TEXT, fingerprint=DIGESTS, not_after=TEXT, token=TEXT, remote=TEXT
    ),
    EnrolmentRefused: st.builds(
        EnrolmentRefused, **_HEAD, reason=TEXT, name=TEXT, token=TEXT, remote=TEXT, count=COUNTERS
    ),
}


def events_of(kind: type[Event]) -> st.SearchStrategy[Any]:
    """Returns a strategy for one kind of event."""
    if kind in _OTHERS:
        return _OTHERS[kind]
    head = st.fixed_dictionaries({name: one for name, one in _HEAD.items() if name != "node"})

    def stated(record: Instance, rest: dict[str, Any]) -> Any:
        return kind(**rest, node=record.node, service=record.name, data=record)

    return st.builds(stated, INSTANCES, head)


def events() -> st.SearchStrategy[Any]:
    """Returns a strategy for any event."""
    return st.sampled_from(EVENT_TYPES).flatmap(events_of)
