"""The directory: what a program knows of the mesh, in its own memory. It does no input or output.

It is changed by one thread alone, and may be read by any: groups are replaced, never changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Protocol

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import NothingKnownError
from pmoves_mesh.sdk.instance import Instance

_Group = dict[InstanceKey, Instance]

_NONE: Final[MappingProxyType[InstanceKey, Instance]] = MappingProxyType({})


class Source(Protocol):
    """Where a directory comes from.

    Attributes:
        anew: set whenever the whole mesh was taken in again; whoever waits for it clears it.
    """

    anew: asyncio.Event

    @property
    def problem(self) -> str:
        """Why the directory does not follow the mesh now; empty while it does."""

    async def run(self) -> None:
        """Keeps the directory in step, for ever."""


class Directory:
    """Every instance of the mesh, lost nodes' included, as of one position of the stream.

    Attributes:
        position: of the stream, up to which it is known.
        node: the node of this host, or of the agent that is asked; empty until it is known.
        is_informed: whether it ever held what the mesh held, so that what it lacks was not there.
    """

    def __init__(self) -> None:
        self.position = 0
        self.node = ""
        self.is_informed = False
        self._groups: Final[dict[str, _Group]] = {}
        self._listeners: tuple[Callable[[InstanceKey], None], ...] = ()

    def get(self, key: InstanceKey) -> Instance | None:
        """Returns one instance, or None."""
        return self._groups.get(key.service, _NONE).get(key)

    def of_service(self, service: str) -> Collection[Instance]:
        """Returns every instance of a service."""
        return self._groups.get(service, _NONE).values()

    def __iter__(self) -> Iterator[Instance]:
        """Yields every instance."""
        for group in list(self._groups.values()):
            yield from group.values()

    def check_informed(self) -> None:
        """Keeps a directory that knows nothing yet from saying that there is nothing.

        Raises:
            NothingKnownError: if it has not seen the mesh yet.
        """
        if not self.is_informed:
            raise NothingKnownError

    def discover(self, capabilities: Collection[str] = (), *, name: str | None = None) -> list[Instance]:
        """Returns the instances that can serve all of `capabilities`, the best first, unhealthy ones never.

        Args:
            capabilities: all must match; none match every instance.
            name: only instances of this service.

        Raises:
            NothingKnownError: if the mesh was not seen yet.
        """
        self.check_informed()
        wanted = set(capabilities)
        found = (
            one
            for one in (self if name is None else self.of_service(name))
            if one.rank < 2 and one.is_discoverable and wanted.issubset(one.capabilities)
        )
        return sorted(found, key=lambda one: (one.rank, not one.port, one.node != self.node, one.key))

    # What changes it

    def replace(self, instances: Iterable[Instance], position: int) -> None:
        """Takes the whole mesh as it is at a position, in the place of what was known."""
        groups: dict[str, _Group] = {}
        for one in instances:
            groups.setdefault(one.name, {})[one.key] = one
        before = dict(self._groups)
        for service, group in groups.items():
            self._groups[service] = group
        for service in before.keys() - groups.keys():
            del self._groups[service]
        self.position, self.is_informed = position, True
        for service in before.keys() | groups.keys():
            earlier, now = before.get(service, _NONE), groups.get(service, _NONE)
            for key in earlier.keys() | now.keys():
                if earlier.get(key) != now.get(key):
                    self._tell(key)

    def put(self, instance: Instance, position: int) -> None:
        """Takes in an instance that is new or changed."""
        key = instance.key
        self._groups[key.service] = {**self._groups.get(key.service, {}), key: instance}
        self.position = max(self.position, position)
        self._tell(key)

    def drop(self, key: InstanceKey, position: int) -> None:
        """Forgets an instance that is gone."""
        self.position = max(self.position, position)
        group = self._groups.get(key.service, {})
        if key not in group:
            return
        left = {other: one for other, one in group.items() if other != key}
        if left:
            self._groups[key.service] = left
        else:
            del self._groups[key.service]
        self._tell(key)

    @contextmanager
    def listened(self, listener: Callable[[InstanceKey], None]) -> Iterator[None]:
        """Calls `listener` with the key of each instance that changes, while the context lasts.

        It is called in the midst of the change, so it must neither wait nor raise.
        """
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

    def _tell(self, key: InstanceKey) -> None:
        for listener in self._listeners:
            listener(key)
