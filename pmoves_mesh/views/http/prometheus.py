"""`GET /api/prometheus/sd`: every endpoint of the mesh, as Prometheus takes its targets.

Prometheus keeps the targets that it has when this fails, and drops them all when it is told that there
are none. So a replica that cannot know them all answers 503, however many it knows.

Source: Prometheus HTTP SD ("HTTP service discovery", "Writing HTTP service discovery").
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from pmoves_mesh.core import query
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registry import InstanceEntry, Registry
from pmoves_mesh.errors import NothingKnownError
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE

PREFIX: Final = "__meta_pmoves_"
METRICS_PORT: Final = "metrics"
"""The named port that is scraped, where an instance has one."""

_AT_ONCE: Final = 250
_NOT_IN_A_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


class TargetGroup(Struct, frozen=True, kw_only=True):
    """One instance: its address as `host:port`, and what relabelling can go by."""

    targets: tuple[str, ...]
    labels: dict[str, str]


class Targets:
    """The list of targets, encoded once for each version of the registry."""

    def __init__(self) -> None:
        self._making: Final = asyncio.Lock()
        self._version = -1
        self._parts: Sequence[bytes] = ()
        self._count = 0

    async def encoded(self, registry: Registry, mesh: str) -> tuple[int, Sequence[bytes]]:
        """Returns how many targets there are, and all of them as JSON.

        Args:
            registry: where they are.
            mesh: its name.
        """
        async with self._making:
            if registry.version != self._version:
                version, count, parts = registry.version, 0, [b"["]
                async for groups in _some(registry, mesh):
                    parts += [b","] if count else []
                    parts.append(encode(groups)[1:-1])
                    count += len(groups)
                self._version, self._count, self._parts = version, count, (*parts, b"]")
            return self._count, self._parts


TARGETS: Final = web.AppKey("targets", Targets)


async def targets(request: web.Request) -> Answer:
    """Answers `GET /api/prometheus/sd`.

    Raises:
        NothingKnownError: if this replica has not seen the mesh, or sees nothing and is not current.
    """
    replica = request.app[FACADE].replica
    if not replica.is_informed:
        raise NothingKnownError
    count, parts = await request.app[TARGETS].encoded(replica.registry, replica.verifier.trust.mesh)
    if not (count or replica.is_current):
        raise NothingKnownError
    return Answer(parts=parts)


def group_of(registry: Registry, entry: InstanceEntry, mesh: str) -> TargetGroup | None:
    """Returns an instance as Prometheus takes it; None if nothing of it can be scraped.

    That is one without an endpoint, or whose node has left on purpose: what a witness declared lost
    stays a target until it leaves the registry, so that its loss is seen.
    """
    record, status = entry.record, registry.nodes[entry.record.node].status
    port = record.ports.get(METRICS_PORT, record.port)
    if port == 0 or status == "left":
        return None
    host = f"[{record.host}]" if ":" in record.host else record.host
    own = {
        "mesh": mesh,
        "service": record.name,
        "id": record.id,
        "node": record.node,
        "node_status": status,
        "host": record.host,
        "port": str(record.port),
        "mode": record.mode,
        "health": record.health_status,
        "maintenance": _text(record.maintenance),
        "verified": _text(entry.verified),
        # Between commas, so that a pattern such as `.*,gpu,.*` finds a whole one.
        "capabilities": f",{','.join(record.capabilities)}," if record.capabilities else "",
    }
    labels = {f"{PREFIX}{name}": value for name, value in own.items()}
    labels |= {_label("capability", name): "true" for name in record.capabilities}
    labels |= {_label("port", name): str(number) for name, number in record.ports.items()}
    labels |= {_label("metadata", name): _text(value) for name, value in record.metadata.items()}
    return TargetGroup(targets=(f"{host}:{port}",), labels=labels)


async def _some(registry: Registry, mesh: str) -> AsyncIterator[list[TargetGroup]]:
    """Yields the groups of some instances after the others, by service, node and id."""
    groups: list[TargetGroup] = []
    looked = 0
    for service in sorted(registry.services()):
        for entry in query.find(registry, Filter(name=service)):
            looked += 1
            if (group := group_of(registry, entry, mesh)) is not None:
                groups.append(group)
        if looked >= _AT_ONCE:
            if groups:
                yield groups
            groups, looked = [], 0
            await asyncio.sleep(0)
    if groups:
        yield groups


def _label(kind: str, name: str) -> str:
    """Returns the name of a label; what no label can have in its name becomes `_`.

    Source: Prometheus' data model (label names).
    """
    return f"{PREFIX}{kind}_{_NOT_IN_A_LABEL.sub('_', name)}"


def _text(value: Any) -> str:
    """Returns a value as a label has it: text as it is, nothing for null, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value).decode()
