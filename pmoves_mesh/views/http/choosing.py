"""How `POST /api/discover` chooses: whatever matches, in slices, then the best of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from pmoves_mesh.core import choice, query
from pmoves_mesh.core.choice import Choice
from pmoves_mesh.core.load import LoadView, Survey
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.http import listing
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.found import Found
from pmoves_mesh.views.http.listing import EncodedList

_AT_ONCE: Final = 1000


async def chosen(facade: Facade, wanted: Choice) -> EncodedList:
    """Returns the instances that a client should go to, the best first.

    Where loads or distances decide, it may take a moment until they are known.
    """
    registry = facade.replica.registry
    found = await _matching(registry, wanted)
    survey = await _surveyed(facade, wanted, found)
    # Whatever has gone or changed meanwhile is not what was found.
    still = [one for one in found if registry.entry(one.key) is one and registry.is_discoverable(one)]
    best = choice.best_first(still, wanted, node=facade.node, survey=survey)

    def view(registry: Registry, entry: InstanceEntry) -> dict[str, Any]:
        shown = msgspec.structs.asdict(query.instance_view(registry, entry))
        if wanted.prefer == "least_loaded":
            shown["load"] = survey.loads.get(entry.record.node)
        else:
            shown["round_trip_ms"] = survey.round_trips_ms.get(entry.record.node)
        return shown

    return await listing.instances(registry, best, query.instance_view if wanted.prefer == "local" else view)


def found_at_once(facade: Facade, wanted: Choice) -> Found | None:
    """Returns all that match, whatever the limit.

    None if nothing matches, or it needs more than a look at a few instances.
    """
    registry = facade.replica.registry
    entries = list(islice(registry.with_capabilities(wanted.capabilities), listing.AT_ONCE + 1))
    if wanted.prefer != "local" or not 0 < len(entries) <= listing.AT_ONCE:
        return None
    matching = choice.matching(registry, entries, wanted)
    best = choice.best_first(matching, msgspec.structs.replace(wanted, limit=None), node=facade.node)
    basis = registry.basis_of(wanted.capabilities)
    return Found.among(_chosen_body, registry, basis, entries, best, facade.encoded.of) if best else None


def counted(found: Found, limit: int | None) -> int:
    """Returns how many of those an asker gets who wants no more than the limit."""
    return found.count if limit is None else min(found.count, limit)


def _chosen_body(items: list[bytes]) -> list[bytes]:
    """Returns how many instances there are, and a list of them."""
    count = items.count(b",") + 1
    return [b'{"count":%d,"services":[' % count, *items, b"]}"]


def body(found: EncodedList) -> Sequence[bytes]:
    """Returns the body that `POST /api/discover` answers with."""
    return listing.body({"count": found.count}, services=found)


async def load_of(facade: Facade, node: NodeEntry) -> LoadView | None:
    """Returns how much of a node is in use, or None if that is not known, or the node is gone."""
    if facade.surveyor is None or node.status != "alive":
        return None
    return (await facade.surveyor.loads([node.name])).get(node.name)


async def looks_of(facade: Facade, node: NodeEntry) -> Mapping[str, str] | None:
    """Returns whom a node reaches, or None if that is not known, or the node is gone."""
    if facade.surveyor is None or node.status != "alive":
        return None
    return await facade.surveyor.looks(node.name)


async def _matching(registry: Registry, wanted: Choice) -> list[InstanceEntry]:
    """Returns what matches; only where there is much to look at do others get their turn in between."""
    entries = list(registry.with_capabilities(wanted.capabilities))
    found: list[InstanceEntry] = []
    for start in range(0, len(entries), _AT_ONCE):
        if start:
            await asyncio.sleep(0)
        found += choice.matching(registry, entries[start : start + _AT_ONCE], wanted)
    return found


async def _surveyed(facade: Facade, wanted: Choice, found: Sequence[InstanceEntry]) -> Survey:
    if facade.surveyor is None or wanted.prefer == "local" or not found:
        return Survey()
    nodes = {entry.record.node for entry in found}
    if wanted.prefer == "least_loaded":
        return Survey(loads=await facade.surveyor.loads(nodes))
    return Survey(round_trips_ms=await facade.surveyor.round_trips_ms(nodes))
