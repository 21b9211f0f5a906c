"""What callers may rely on: for each instance of a host, what it can be by what they were told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chronicle import Chronicle
from host import Host

Key = tuple[str, str]
"""The service and the id of an instance."""


class Expectations:
    """What one host's callers know.

    An instance's value is the port that was registered last, None once it is deregistered. A call
    that was never answered leaves two possible values.
    """

    def __init__(self, host: Host, chronicle: Chronicle) -> None:
        self.possible: Final[dict[Key, set[int | None]]] = {}
        self._host = host
        self._chronicle = chronicle

    def of(self, key: Key) -> set[int | None]:
        """Returns what an instance may be now."""
        return self.possible.setdefault(key, {None})

    def ask(self, keys: Iterable[Key], value: int | None) -> None:
        """A caller asks for a value, and does not know yet what becomes of it."""
        for key in keys:
            self.of(key).add(value)

    def know(self, keys: Iterable[Key], value: int | None) -> None:
        """A caller was told that it is so."""
        for key in keys:
            self.possible[key] = {value}

    def forget(self) -> None:
        """The disk is lost, and with it all that was registered."""
        self.know(self.possible, None)

    def check(self, key: Key, value: int | None) -> None:
        """Checks that an instance is what it may be."""
        if value not in self.of(key):
            allowed = sorted(map(str, self.of(key)))
            self._chronicle.violate(f"{self._host.name} holds {key} as {value}, it may be {allowed}")
