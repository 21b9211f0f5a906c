"""Groups of instances that have something in common, such as their service, and how often each changed.

Whoever keeps what it made of a group can tell at once whether it still holds, without another look at
what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from pmoves_mesh.core.model import InstanceKey

Held = TypeVar("Held")


class Group(dict[InstanceKey, Held]):
    """Instances that have something in common.

    Attributes:
        changes: how often one was put into it or dropped from it.
    """

    __slots__ = ("changes",)

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0


class Index(Generic[Held]):
    """Groups by what is common to their instances; none of them is empty.

    A group that loses its last instance is never filled again: if others come, they make a new one.
    """

    def __init__(self) -> None:
        self._groups: Final[dict[str, Group[Held]]] = {}
        self._none: Final[Group[Held]] = Group()

    def __iter__(self) -> Iterator[str]:
        """Yields what the instances of each group have in common."""
        yield from self._groups

    def group(self, common: str) -> Group[Held]:
        """Returns the group that has this in common, as it is and will be; an empty one if there is none."""
        return self._groups.get(common, self._none)

    def groups(self) -> Iterator[Group[Held]]:
        """Yields every group."""
        yield from self._groups.values()

    def put(self, common: str, key: InstanceKey, held: Held) -> None:
        """Puts an instance into a group, in the place of what the group has under its key."""
        group = self._groups.get(common)
        if group is None:
            group = self._groups[common] = Group()
        group[key] = held
        group.changes += 1

    def drop(self, common: str, key: InstanceKey) -> None:
        """Drops an instance that is in a group."""
        group = self._groups[common]
        del group[key]
        group.changes += 1
        if not group:
            del self._groups[common]
