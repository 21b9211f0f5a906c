"""Long lists as JSON, a part at a time, so that no listing keeps the agent from its other work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core import query
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registry import InstanceEntry, Registry
from pmoves_mesh.views.http.answers import encode

AT_ONCE: Final = 500
"""So many instances are encoded in one go."""

_NODES_AT_ONCE: Final = 32
_SERVICES_AT_ONCE: Final = 16
_ATOMIC_MAX: Final = 2000


class EncodedList(Struct, frozen=True, kw_only=True):
    """A JSON array in the making: its items' bytes, in groups, and how many there are."""

    count: int
    parts: Sequence[bytes]


async def found(registry: Registry, wanted: Filter) -> EncodedList:
    """Returns the listed instances that match, by service, node and id.

    The answer is the registry at one moment, but where more than 2000 instances have to be looked
    at, it is gathered service by service, while the registry may change.
    """
    count = 0
    parts: list[bytes] = []
    async for entries in _groups(registry, wanted):
        some = await instances(registry, entries)
        count += some.count
        parts += some.parts
    return EncodedList(count=count, parts=parts)


async def instances(
    registry: Registry,
    entries: Sequence[InstanceEntry],
    view: Callable[[Registry, InstanceEntry], object] = query.instance_view,
) -> EncodedList:
    """Returns `entries` in their order, each as `view` has it."""
    parts: list[bytes] = []
    for start in range(0, len(entries), AT_ONCE):
        if start:
            await asyncio.sleep(0)
        parts += few(registry, entries[start : start + AT_ONCE], view).parts
    return EncodedList(count=len(entries), parts=parts)


def few(
    registry: Registry,
    entries: Sequence[InstanceEntry],
    view: Callable[[Registry, InstanceEntry], object] = query.instance_view,
) -> EncodedList:
    """Returns `entries`, of which there are at most `AT_ONCE`, in their order."""
    views = [view(registry, entry) for entry in entries]
    return EncodedList(count=len(entries), parts=[encode(views)[1:-1]] if views else [])


async def nodes(registry: Registry) -> EncodedList:
    """Returns every node, by name."""
    held = [node for _, node in sorted(registry.nodes.items())]
    parts = []
    for start in range(0, len(held), _NODES_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        views = [query.node_view(node) for node in held[start : start + _NODES_AT_ONCE]]
        parts.append(encode(views)[1:-1])
    return EncodedList(count=len(held), parts=parts)


def body(head: Struct | dict[str, object], **lists: EncodedList) -> list[bytes]:
    """Returns a JSON object in parts: the fields of `head`, which has at least one, then `lists`."""
    parts = [encode(head)[:-1]]
    for name, array in lists.items():
        parts.append(b',"%b":[' % name.encode())
        parts.extend(_joined(array.parts))
        parts.append(b"]")
    parts.append(b"}")
    return parts


def _joined(parts: Sequence[bytes]) -> Iterator[bytes]:
    for index, part in enumerate(parts):
        if index:
            yield b","
        yield part


async def _groups(registry: Registry, wanted: Filter) -> AsyncIterator[Sequence[InstanceEntry]]:
    """Yields what matches, in order: at once where few can match, else service by service."""
    if wanted.name is not None or _is_small(registry, wanted):
        yield query.find(registry, wanted)
        return
    group: list[InstanceEntry] = []
    for index, service in enumerate(sorted(registry.services())):
        group += query.find(registry, msgspec.structs.replace(wanted, name=service))
        if len(group) >= AT_ONCE:
            yield group
            group = []
        if index % _SERVICES_AT_ONCE == _SERVICES_AT_ONCE - 1:
            await asyncio.sleep(0)
    yield group


def _is_small(registry: Registry, wanted: Filter) -> bool:
    """Returns whether the registry's indexes leave few instances to look at."""
    if wanted.node is not None:
        node = registry.nodes.get(wanted.node)
        return node is None or len(node.entries) <= _ATOMIC_MAX
    candidates = registry.with_capabilities(wanted.capabilities)
    return next(islice(candidates, _ATOMIC_MAX, None), None) is None
