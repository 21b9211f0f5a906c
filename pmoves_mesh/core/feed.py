"""What one reader of the registry was shown, and what has come, changed or gone for it since.

A reader sees no difference in what moves without news: when an instance was last seen, at which
revision and position its record stands, and in which words its last check reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from pmoves_mesh.core import query
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.names import NodeStatus
from pmoves_mesh.core.query import Filter, NodeView
from pmoves_mesh.core.registry import InstanceEntry, Registry

Kind = Literal["added", "changed", "removed"]


class Difference(NamedTuple):
    """One instance that came, changed or went, as a reader with a filter sees it.

    Attributes:
        entry: as it is now; None if it went, which may also mean that it no longer matches.
    """

    kind: Kind
    key: InstanceKey
    entry: InstanceEntry | None


class _Shown(NamedTuple):
    """What a reader was shown of an instance."""

    record: Instance
    status: NodeStatus
    verified: bool
    signer: str


class Feed:
    """The instances that match a filter, as a reader that follows them was told last.

    Attributes:
        wanted: which instances.
    """

    def __init__(self, registry: Registry, wanted: Filter) -> None:
        self.wanted: Final = wanted
        self._shown: dict[InstanceKey, _Shown] = {
            entry.key: _shown(registry, entry) for entry in query.find(registry, wanted)
        }

    def __len__(self) -> int:
        """How many instances match."""
        return len(self._shown)

    def concerns(self, key: InstanceKey) -> bool:
        """Returns whether a change of this instance can be one for this reader."""
        return self.wanted.name in {None, key.service} and self.wanted.node in {None, key.node}

    def held(self, registry: Registry, key: InstanceKey) -> InstanceEntry | None:
        """Returns an instance that the reader was shown, as it is now; None if it was shown none."""
        return registry.entry(key) if key in self._shown else None

    def update(self, registry: Registry, keys: Iterable[InstanceKey]) -> Iterator[Difference]:
        """Looks at instances that may have changed, and yields what is different for the reader.

        Costs as much as `keys`, however many instances match.
        """
        for key in keys:
            entry = registry.entry(key)
            before = self._shown.get(key)
            if entry is None or not query.matches(registry, entry, self.wanted):
                if before is not None:
                    del self._shown[key]
                    yield Difference("removed", key, None)
                continue
            now = self._shown[key] = _shown(registry, entry)
            if before is None:
                yield Difference("added", key, entry)
            elif not _looks_same(before, now):
                yield Difference("changed", key, entry)

    def compare(self, registry: Registry) -> Iterator[Difference]:
        """Looks at every instance, as when another registry took the place of the one before."""
        found = dict.fromkeys(self._shown)
        found.update(dict.fromkeys(entry.key for entry in query.find(registry, self.wanted)))
        yield from self.update(registry, found)


class NodeFeed:
    """The nodes, as readers that follow them were told last.

    Attributes:
        told: how many differences there were.
    """

    def __init__(self, registry: Registry) -> None:
        self.told = 0
        self._shown: Final[dict[str, NodeView]] = {}
        self.update(registry, registry.nodes)
        self.told = 0

    def update(self, registry: Registry, names: Iterable[str]) -> None:
        """Looks at nodes that may have changed, or gone."""
        for name in names:
            node = registry.nodes.get(name)
            now = None if node is None else _news_of_node(query.node_view(node))
            if now == self._shown.get(name):
                continue
            self.told += 1
            if now is None:
                del self._shown[name]
            else:
                self._shown[name] = now

    def compare(self, registry: Registry) -> None:
        """Looks at every node, as when another registry took the place of the one before."""
        self.update(registry, (*self._shown.keys(), *(registry.nodes.keys() - self._shown.keys())))


def _news_of_node(view: NodeView) -> NodeView:
    return msgspec.structs.replace(view, last_seen="", revision=0, position=0, gaps=0)


def _shown(registry: Registry, entry: InstanceEntry) -> _Shown:
    return _Shown(entry.record, registry.nodes[entry.record.node].status, entry.verified, entry.signer)


def _looks_same(before: _Shown, now: _Shown) -> bool:
    if before[1:] != now[1:]:
        return False
    return before.record is now.record or _news(before.record) == _news(now.record)


def _news(record: Instance) -> Instance:
    return msgspec.structs.replace(record, last_seen="", health_output="")
