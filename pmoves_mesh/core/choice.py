"""Choice: which instances a client that looks for one should be sent to, and in which order.

First comes what is healthy, and what has an endpoint; what the asker prefers decides among those; of
equals its own node's are taken, then the first by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

from msgspec import Struct

from pmoves_mesh.core.load import Survey, burden
from pmoves_mesh.core.query import HEALTH_RANK
from pmoves_mesh.core.registry import InstanceEntry, Registry
from pmoves_mesh.core.where import ANYWHERE, Where

LIMIT_MAX: Final = 1000

Preference = Literal["local", "least_loaded", "nearest"]

_GPU_CAPABILITIES: Final = frozenset({"gpu", "cuda", "rocm"})
_NO_SURVEY: Final = Survey()


class Choice(Struct, frozen=True, kw_only=True):
    """What an asker looks for.

    Attributes:
        capabilities: all must match.
        where: must hold too.
        prefer: what decides among those that are equally well: `local` the asker's own node, `least_loaded`
            how much of the node is in use, `nearest` the time to the node and back.
        limit: how many are wanted at most, 1 to 1000; None for all.
    """

    capabilities: tuple[str, ...] = ()
    where: Where = ANYWHERE
    prefer: Preference = "local"
    limit: int | None = None

    @property
    def is_about_gpus(self) -> bool:
        """Whether the load of a GPU is what counts."""
        return self.where.asks_for_gpu or not _GPU_CAPABILITIES.isdisjoint(self.capabilities)


def matching(registry: Registry, entries: Iterable[InstanceEntry], choice: Choice) -> Iterator[InstanceEntry]:
    """Yields those of `entries`, which have the capabilities, that can be discovered and match the rest."""
    fits: dict[str, bool] = {}
    where = choice.where
    for entry in entries:
        node = registry.nodes.get(entry.record.node)
        if node is None or entry.record.health_status == "unhealthy":
            continue
        if node.name not in fits:
            fits[node.name] = where.holds_of_node(node)
        if fits[node.name] and where.holds_of_instance(entry) and registry.is_discoverable(entry):
            yield entry


def best_first(
    entries: Iterable[InstanceEntry], choice: Choice, *, node: str, survey: Survey = _NO_SURVEY
) -> list[InstanceEntry]:
    """Returns the instances that are to be tried first, in their order, no more than the limit.

    Args:
        entries: those that match.
        choice: what is preferred.
        node: the asker's own node.
        survey: what is known of the nodes; those of which nothing is known come last.
    """

    def key(entry: InstanceEntry) -> tuple[Any, ...]:
        record = entry.record
        return (
            HEALTH_RANK[record.health_status],
            record.port == 0,
            _rank(record.node, choice, survey),
            record.node != node,
            entry.key,
        )

    return sorted(entries, key=key)[: choice.limit]


def _rank(node: str, choice: Choice, survey: Survey) -> tuple[bool, tuple[float, ...]]:
    """Returns how well a node is liked: first those of which something is known, the best first."""
    if choice.prefer == "least_loaded":
        load = survey.loads.get(node)
        if load is None or load.stale:
            return True, ()
        return False, burden(load, gpu=choice.is_about_gpus)
    if choice.prefer == "nearest":
        round_trip_ms = survey.round_trips_ms.get(node)
        return (True, ()) if round_trip_ms is None else (False, (float(round(round_trip_ms)),))
    return False, ()
