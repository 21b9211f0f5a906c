"""What the replica holds, in Consul's words: instances, nodes and their checks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from aiohttp import web

from pmoves_mesh.core.names import sanitise_label
from pmoves_mesh.core.registry import InstanceEntry
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.rows import Row, Rows
from pmoves_mesh.views.http.consul.shapes import (
    CheckShape,
    NodeShape,
)
from pmoves_mesh.views.http.facade import Facade

_AT_ONCE: Final = 200


class Catalogue:
    """The registry in Consul's words.

    Attributes:
        writing: held while an instance is read and written again, one lock for some of the IDs.
    """

    def __init__(self, facade: Facade) -> None:
        self._replica = facade.replica
        self._maintainer = facade.maintainer
        self.mesh: Final = facade.replica.verifier.trust.mesh
        self.node: Final = facade.node
        self.rows: Final = Rows(self.mesh, facade.node)
        self._gathered: tuple[int, str | None, tuple[Row, ...]] = (-1, None, ())
        self.writing: Final = tuple(asyncio.Lock() for _ in range(64))

    @property
    def reason(self) -> str | None:
        """Why this whole node is in maintenance; None if it is not."""
        return None if self._maintainer is None else self._maintainer.node_reason

    def every(self) -> tuple[Row, ...]:
        """Returns every instance that is shown, grouped by service; gathered once for each version."""
        registry, reason = self._replica.registry, self.reason
        if self._gathered[:2] != (registry.version, reason):
            self._gathered = registry.version, reason, tuple(self.shown(registry.entries()))
        return self._gathered[2]

    def shown(self, entries: Iterable[InstanceEntry]) -> Iterator[Row]:
        """Yields the rows of those instances that are shown."""
        return self.rows.of(self._replica.registry, entries, self.reason)

    def of_service(self, name: str) -> Iterator[Row]:
        """Yields the instances of a service, by the name that its clients gave it."""
        try:
            label = sanitise_label(name, "service")
        except InvalidFieldError:
            return
        wanted = name.lower()
        for row in self.shown(self._replica.registry.of_service(label)):
            if row.service.service.lower() == wanted:
                yield row

    def of_node(self, name: str) -> Iterator[Row]:
        """Yields the instances on a node, or on a host outside the mesh; `name` in lower case."""
        node = self._replica.registry.nodes.get(name)
        rows = self.every() if node is None else self.shown(node.entries.values())
        return (row for row in rows if row.node.node.lower() == name)

    def own(self) -> list[Row]:
        """Returns the instances of this very node, by their IDs."""
        node = self._replica.registry.nodes.get(self.node)
        entries = () if node is None else node.entries.values()
        found = [row for row in self.shown(entries) if row.node.node == self.node]
        return sorted(found, key=lambda row: row.service.id)

    def spoken_for(self) -> list[Row]:
        """Returns all instances that this node registered, those on hosts outside the mesh included."""
        node = self._replica.registry.nodes.get(self.node)
        return [] if node is None else list(self.shown(node.entries.values()))

    def nodes(self) -> list[NodeShape]:
        """Returns every node and every host outside the mesh, by name."""
        found = {row.node.node: row.node for row in self.every() if row.is_outside}
        found |= {node.node: node for node in self.rows.nodes(self._replica.registry)}
        return [node for _, node in sorted(found.items())]

    def here(self) -> NodeShape:
        """Returns this node; one that has not announced itself yet has no address."""
        node = self._replica.registry.nodes.get(self.node)
        return self.rows.empty_node(self.node) if node is None else self.rows.node_shape(node)

    def node_checks(self, name: str) -> tuple[CheckShape, ...]:
        """Returns the checks of a node itself; none for a host outside the mesh."""
        node = self._replica.registry.nodes.get(name)
        reason = self.reason if name == self.node else None
        return () if node is None else self.rows.node_checks(node, reason)

    async def prepare(self) -> None:
        """Shapes what is new, a little at a time, so that looking at everything is quick afterwards."""
        registry, reason = self._replica.registry, self.reason
        version = registry.version
        if self._gathered[:2] == (version, reason):
            return
        rows: list[Row] = []
        for row in self.shown(tuple(registry.entries())):
            rows.append(row)
            if len(rows) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if (registry, registry.version, self.reason) == (self._replica.registry, version, reason):
            self._gathered = version, reason, tuple(rows)


CATALOGUE: Final = web.AppKey("catalogue", Catalogue)
