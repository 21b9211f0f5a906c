"""How far a long piece of work has come, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Is told at every step: which one, how much is done, and of how much, if that is known. It must not wait."""


def unheard(_step: str, _done: int, _total: int | None) -> None:
    """The `Progress` of work that nobody watches."""
