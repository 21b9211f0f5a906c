"""The terminal while it is drawn on: its keys, its size, and giving it back as it was, whatever happens.

Source: POSIX.1-2024, chapter 11 (general terminal interface); signal(7).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NamedTuple, Self

from rich.console import Console, RenderableType
from rich.live import Live

from pmoves_mesh.cli.top.keys import Keys

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NOTED: Final = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP)
_ESCAPE_S: Final = 0.1
_READ_BYTES: Final = 4096
_SIZE: Final = os.terminal_size((80, 24))
_LOCAL_MODES: Final = 3


class Heard(NamedTuple):
    """What happened while the terminal was waited for.

    Attributes:
        keys: that were pressed.
        signals: that came.
        is_gone: whether there is no terminal any more.
    """

    keys: list[str]
    signals: set[int]
    is_gone: bool


def is_drawable() -> bool:
    """Whether there is a terminal that can be drawn on, and keys can be read from."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}


class Terminal:
    """Use it as a context manager: it takes the terminal over, and gives it back on every way out.

    A signal is no exception here but news: whoever waits hears of it, and leaves in order.
    """

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self._console = Console(force_terminal=True)
        self._live: Live | None = None
        self._keys = Keys()
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._wakened, self._wakener = os.pipe()
        os.set_blocking(self._wakened, False)
        os.set_blocking(self._wakener, False)
        self._wakeup_before = -1
        self._is_gone = False

    def wake(self) -> None:
        """Ends a wait; may be called by any thread."""
        # A full pipe wakes whoever waits already, and one that is closed has nobody.
        with suppress(OSError):
            os.write(self._wakener, b"\0")

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now."""
        try:
            found = os.get_terminal_size(self._output)
        except OSError:
            return _SIZE
        return os.terminal_size((found.columns or _SIZE.columns, found.lines or _SIZE.lines))

    def wait(self, timeout_s: float) -> Heard:
        """Waits for a key, a signal or a call of `wake`, so many seconds at most."""
        if self._is_gone:
            return Heard([], set(), is_gone=True)
        ready = self._ready(timeout_s)
        if self._input not in ready:
            return Heard([], self._signals(), is_gone=False)
        data = self._read()
        keys = self._keys.feed(data)
        # What follows an escape comes with it, but for a slow connection between.
        while data and self._keys.is_amid:
            more = self._read() if self._input in self._ready(_ESCAPE_S) else b""
            keys += self._keys.feed(more) if more else self._keys.settle()
            if not more:
                break
        return Heard(keys, self._signals(), is_gone=not data)

    def show(self, drawn: RenderableType) -> None:
        """Draws the whole screen anew."""
        if self._live is not None:
            self._console.size = self.size  # COLUMNS in the environment is the size of before
            try:
                self._live.update(drawn, refresh=True)
            except OSError:
                self._is_gone = True  # whoever waits next hears of it

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Gives the terminal back while the context lasts, as for a stop by Ctrl-Z."""
        self._leave()
        try:
            yield
        finally:
            self._enter()

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(self._input)
        # A signal that was to be ignored, as with nohup, is ignored still.
        taken = (each for each in _NOTED if signal.getsignal(each) is not signal.SIG_IGN)
        self._handlers = {each: signal.signal(each, _noted) for each in taken}
        self._wakeup_before = signal.set_wakeup_fd(self._wakener, warn_on_full_buffer=False)
        try:
            self._enter()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave()
        signal.set_wakeup_fd(self._wakeup_before)
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def _enter(self) -> None:
        modes = termios.tcgetattr(self._input)
        modes[_LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._input, termios.TCSADRAIN, modes)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _leave(self) -> None:
        live, self._live = self._live, None
        # Whoever started it may have taken the terminal back already, and may have it put right all the same.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        # A terminal that is gone takes neither; what is left to do is done all the same.
        if live is not None:
            with suppress(OSError):
                live.stop()
        with suppress(termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._modes)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _ready(self, timeout_s: float) -> list[int]:
        return select.select([self._input, self._wakened], [], [], timeout_s)[0]

    def _read(self) -> bytes:
        try:
            return os.read(self._input, _READ_BYTES)
        except OSError:
            return b""

    def _signals(self) -> set[int]:
        """Returns which signals came; a byte is a signal's number, and 0 a call of `wake`."""
        with suppress(BlockingIOError):
            return set(os.read(self._wakened, _READ_BYTES)) - {0}
        return set()


def ending(signals: set[int]) -> int | None:
    """Returns the signal that ends the program, if one of these does."""
    return next((each for each in _ENDING if each in signals), None)


def die_of(number: int) -> None:
    """Ends this process as the signal does that asked for it, so that whoever sent it sees that."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def stop_here() -> None:
    """Stops this process as Ctrl-Z does; returns when it is continued."""
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, _noted)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Does nothing: that a signal came is read from the pipe that it is written to."""
