"""A bar for what takes longer than a second: on a terminal alone, on stderr, and gone when it is done."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pmoves_mesh.progress import Progress

_PATIENCE_S: Final = 1.0
_EVERY_S: Final = 0.1


@contextmanager
def shown_progress(step: str = "beginning", *, as_json: bool = False) -> Iterator[Progress]:
    """Shows how far what is done in the context has come, if it is not done within a second.

    Args:
        step: what is under way until something else is told.
        as_json: whether the command prints for a program, which wants nothing else.
    """
    told = _Told(step)
    if as_json or not sys.stderr.isatty() or os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        yield told.take
        return
    showing = threading.Thread(target=_show, args=(told,), daemon=True)
    showing.start()
    try:
        yield told.take
    finally:
        told.is_done.set()
        showing.join()


class _Told:
    """How far it has come, as it was told last."""

    def __init__(self, step: str) -> None:
        self.latest: tuple[str, int, int | None] = (step, 0, None)
        self.is_done = threading.Event()

    def take(self, step: str, done: int, total: int | None) -> None:
        """Notes it, and no more: it is told at every step of work that must not wait."""
        self.latest = (step, done, total)


def _show(told: _Told) -> None:
    if told.is_done.wait(_PATIENCE_S):
        return
    # Imported here: most of what is waited for is done within that second.
    from pmoves_mesh.cli.richbar import Bar  # noqa: PLC0415 - see above

    with Bar(told.latest[0]) as bar:
        while True:
            bar.show(*told.latest)
            if told.is_done.wait(_EVERY_S):
                return
