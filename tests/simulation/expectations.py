"""What callers may rely on: for each instance of a host, what it can be by what they were told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from chronicle import Chronicle
from host import Host

from pmoves_mesh.errors import MeshError

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

    @contextmanager
    def asked(self, keys: Iterable[Key], value: int | None) -> Iterator[None]:
        """A caller asks for a value; it may be so until the answer comes, and is so if that is good."""
        before = {key: set(self.of(key)) for key in keys}
        for key in before:
            self.of(key).add(value)
        try:
            yield
        except MeshError:
            self.possible.update(before)  # refused: nothing was changed
            raise
        self.possible.update({key: {value} for key in before})

    def copy(self, host: Host) -> Expectations:
        """Returns what callers know of a host whose disk is a copy of this one's."""
        other = Expectations(host, self._chronicle)
        other.possible.update({key: set(values) for key, values in self.possible.items()})
        return other

    def forget(self) -> None:
        """The disk is lost, and with it all that was registered."""
        self.possible.clear()

    def check(self, key: Key, value: int | None) -> None:
        """Checks that an instance is what it may be."""
        if value not in self.of(key):
            allowed = sorted(map(str, self.of(key)))
            self._chronicle.violate(f"{self._host.label} holds {key} as {value}, it may be {allowed}")
