"""What is kept because it was asked for again: a bounded number of bytes, the longest unasked goes first."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

_PUT_ONCE_MAX: Final = 4096


class Weighed(Protocol):
    """What knows how much it takes."""

    @property
    def size(self) -> int:
        """How many bytes it takes; the same for as long as it is kept."""


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Weighed)


class Kept(Generic[Key, Value]):
    """Keeps values in two halves, so that finding one costs no more than looking into a dictionary.

    Whatever is put or found is in the younger half. Once that is full it becomes the older one, and
    what nobody asked for since the last time is let go. What is put for the first time in a long while
    is not kept yet: who asks for everything in turn displaces nothing.
    """

    def __init__(self, bytes_max: int) -> None:
        """Begins with nothing.

        Args:
            bytes_max: what all values may take together.
        """
        self._half_max: Final = bytes_max // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._put_once: set[Key] = set()
        self._young_bytes = 0
        self._old_bytes = 0

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._young) + len(self._old)

    @property
    def bytes(self) -> int:
        """What all values take together."""
        return self._young_bytes + self._old_bytes

    def get(self, key: Key) -> Value | None:
        """Returns what was put under a key, if it is still kept."""
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self._old_bytes -= value.size
                self.put_again(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keeps a value under a key that has none; not if it would take half of all."""
        if key not in self._put_once:
            if len(self._put_once) >= _PUT_ONCE_MAX:
                self._put_once.clear()
            self._put_once.add(key)
        else:
            self.put_again(key, value)

    def put_again(self, key: Key, value: Value) -> None:
        """Keeps a value, or another, under a key from which one was just dropped."""
        size = value.size
        if size > self._half_max:
            return
        if self._young_bytes + size > self._half_max:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young[key] = value
        self._young_bytes += size

    def drop(self, key: Key) -> bool:
        """Lets go of what is kept under a key, and returns whether anything was."""
        if (value := self._young.pop(key, None)) is not None:
            self._young_bytes -= value.size
        elif (value := self._old.pop(key, None)) is not None:
            self._old_bytes -= value.size
        return value is not None

    def clear(self) -> None:
        """Lets go of everything."""
        self._young, self._old = {}, {}
        self._young_bytes = self._old_bytes = 0
