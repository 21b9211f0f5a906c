"""The bar itself, as rich draws it."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """Use it as a context manager: one line on stderr, which is taken away at the end.

    The cursor stays visible, so that nothing has to be put right if the program is killed meanwhile.
    """

    def __init__(self, step: str) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self._progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(step, total=None)
        self._step = step

    def show(self, step: str, done: int, total: int | None) -> None:
        """Draws how far it is; without a total only that it goes on."""
        if step != self._step:
            self._progress.reset(self._task, description=step, total=total)
            self._step = step
        self._progress.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        self._console.show_cursor(show=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()
