"""The subscribers of a replica: who is told what changed in the registry that readers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from pmoves_mesh.core.change import Change
from pmoves_mesh.core.envelope import VerifiedEvent


class Applied(Struct, frozen=True, kw_only=True):
    """What a subscriber is told: an event that was not known before, and what it changed."""

    verified: VerifiedEvent
    change: Change
    position: int


class Subscribers:
    """Who is told, and what they were not told yet, since readers do not see it yet."""

    def __init__(self) -> None:
        self._told: dict[Callable[[Applied], None], Callable[[], object]] = {}
        self._untold: list[Applied] = []

    @contextmanager
    def subscribed(
        self, callback: Callable[[Applied], None], replaced: Callable[[], object]
    ) -> Iterator[None]:
        """Lets `callback` and `replaced` be called while the context lasts; see `Replica.subscribed`."""
        self._told[callback] = replaced
        try:
            yield
        finally:
            del self._told[callback]

    def note(self, applied: Applied) -> None:
        """Takes note of an event that is to be told."""
        self._untold.append(applied)

    def forget(self) -> None:
        """Drops what was noted: readers will never see it."""
        self._untold.clear()

    def tell(self) -> None:
        """Tells what was noted: readers see it now."""
        untold, self._untold = self._untold, []
        for applied in untold:
            for callback in tuple(self._told):
                callback(applied)

    def tell_replaced(self) -> None:
        """Tells that another registry took the place of the one before."""
        for replaced in tuple(self._told.values()):
            replaced()
