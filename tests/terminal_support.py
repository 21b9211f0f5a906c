"""A terminal for tests: a pty with a program in it, what it has drawn, and what it left behind."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

DEADLINE_S = 30.0
POLL_S = 0.05
STYLE = re.compile(r"\x1b\[[0-9;]*m")
OWN = re.compile(r"\x1b(?:\[[0-9;]*m|\[H|\[\?1049[hl]|\[\?25[hl]|\[[0-9]+;[0-9]+H|\[1A|\[2K|\[[0-9]*[AK])")
"""The sequences that a program of ours sends by itself."""
HOME = "\x1b[H"
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_SHOWN = "\x1b[?25h"


# The terminal's session outlives the program, as the shell does from which people start it, and
# continues it when it was stopped, as they do with `fg`.
SHELL = """
set -m
trap : HUP
sh -c '
    trap : INT QUIT HUP TERM
    sh -c "echo \\$\\$ >pid; exec \\"\\$@\\"" sh "$@"
    echo $? >code.new; mv code.new code
' sh "$@"
until [ -e code ]; do
    until [ -e continue ]; do sleep 0.05; done
    rm continue
    fg
done
exec sleep 300
"""


class Terminal:
    """A program in a terminal of its own; use it as a context manager, which kills what is left of it.

    It is started by a shell in a session of its own, whose controlling terminal this is, as over ssh.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        size: tuple[int, int] = (80, 24),
        **streams: Any,
    ) -> None:
        self._master, self._slave = pty.openpty()
        self._lines = 0
        self.resize(*size)
        self.modes_before = termios.tcgetattr(self._slave)
        self._output = bytearray()
        self._over = threading.Event()
        self._notes = Path(tempfile.mkdtemp(dir=directory))
        words = ["sh", "-c", f"cd {self._notes} && " + SHELL, "sh", "env", "-C", str(directory), *command]
        self._shell = subprocess.Popen(
            words,
            env={"TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=self._take,  # noqa: PLW1509 - it makes one system call and needs no lock
            **{"stdin": self._slave, "stdout": self._slave, "stderr": self._slave, **streams},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Changes the size, of which the kernel tells the program."""
        self._lines = lines
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def send(self, number: signal.Signals) -> None:
        """Sends the program a signal."""
        os.kill(self._pid, number)

    def resume(self) -> None:
        """Continues the program that Ctrl-Z stopped."""
        (self._notes / "continue").touch()

    def hang_up(self) -> None:
        """Takes the terminal away, as a connection that broke does; the kernel tells the program."""
        self._stop_reading()

    @property
    def text(self) -> str:
        """Everything that was sent so far."""
        return bytes(self._output).decode(errors="replace")

    @property
    def frame(self) -> str:
        """The latest whole drawing, as it was sent; empty before the first."""
        drawings = self.text.split(HOME)[1:]
        whole = [one for one in drawings if one.count("\n") == self._lines - 1 and OWN.sub("", one)]
        return whole[-1] if whole else ""

    @property
    def drawn(self) -> list[str]:
        """The lines of the latest whole drawing."""
        lines = STYLE.sub("", self.frame).replace("\r", "").split("\n")
        return [line.rstrip() for line in lines] if self.frame else []

    @property
    def state(self) -> str:
        """How the kernel sees the program, in a letter: `T` is stopped."""
        status = Path(f"/proc/{self._pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]

    @property
    def modes(self) -> list[Any]:
        """How the terminal treats what is typed, now."""
        return termios.tcgetattr(self._slave)

    def shows(self, *texts: str, within_s: float = DEADLINE_S) -> float:
        """Waits until a drawing has all of these; returns after how many seconds it had."""
        return self.until(
            lambda: all(any(text in line for line in self.drawn) for text in texts), f"{texts}", within_s
        )

    def until(self, condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> float:
        """Waits until a condition holds; returns after how many seconds it did."""
        begin = time.perf_counter()
        while not condition():
            if time.perf_counter() - begin > within_s:
                drawn = "\n".join(self.drawn) or self.text
                pytest.fail(f"not within {within_s:g} s: {what}; drawn:\n{drawn}")
            time.sleep(0.01)
        return time.perf_counter() - begin

    def ended(self) -> int:
        """Waits until the program has ended; returns its exit code, of a shell: 128 and more for a signal."""
        code = self._notes / "code"
        self.until(code.exists, "it has ended")
        self._stop_reading(keep=True)
        return int(code.read_text())

    @property
    def _pid(self) -> int:
        self.until((self._notes / "pid").exists, "it is started")
        return int((self._notes / "pid").read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for kill, number in ((os.kill, self._pid), (os.killpg, self._shell.pid)):
            with suppress(ProcessLookupError):
                kill(number, signal.SIGKILL)
        self._shell.wait(DEADLINE_S)
        self._stop_reading()
        os.close(self._slave)

    def _take(self) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def _stop_reading(self, *, keep: bool = False) -> None:
        """Reads what is left; then there is nobody at the other end any more, unless it is kept."""
        self._over.set()
        self._reader.join(DEADLINE_S)
        if not keep and self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self) -> None:
        """Reads until the program is over and nothing is left; this side keeps the terminal open."""
        while not (self._over.is_set() and not self._has_more()):
            if self._has_more():
                self._output += os.read(self._master, 65536)

    def _has_more(self) -> bool:
        return bool(select.select([self._master], [], [], POLL_S)[0])
