"""A running nats-server as a process: one that was started here, or one that an earlier agent left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from pmoves_mesh.ports import Clock

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.1
_PS_ANSWER_S: Final = 5.0
_REAP_S: Final = 2.0


class ServerProcess:
    """One process, known by its id and by a word that only its command line contains.

    Args:
        pid: its process id.
        mark: the word.
        child: how it was started, if it was here; it is then reaped too.
        clock: paces the polling where the system cannot report a process's end.
    """

    def __init__(self, pid: int, mark: str, child: subprocess.Popen[bytes] | None, clock: Clock) -> None:
        self.pid: Final = pid
        self._mark = mark
        self._child = child
        self._clock = clock

    def alive(self) -> bool:
        """Returns whether it still runs; a process that took over its id does not count."""
        if self._child is not None:
            return self._child.poll() is None
        return self._mark in command_of(self.pid)

    def ending(self) -> str:
        """Returns how it ended, in words."""
        code = self._child.returncode if self._child else None
        if code is None:
            return "ended"
        return f"exit status {code}" if code >= 0 else f"signal {-code}"

    async def exited(self) -> None:
        """Waits until it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):  # an older kernel, a sandbox, or another system
            while await asyncio.to_thread(self.alive):
                await self._clock.sleep(_POLL_S)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            if self.alive():
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self.alive()  # reaps it

    async def end(self, grace_s: float) -> None:
        """Asks it to end, and kills it when it has not after `grace_s` seconds, or if this is cancelled."""
        try:
            self._send(signal.SIGTERM)
            await self._exited_within(grace_s)
        finally:
            self.kill()
        await self._exited_within(_REAP_S)

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        self._send(signal.SIGKILL)
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_REAP_S)

    async def _exited_within(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.exited()

    def _send(self, number: signal.Signals) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def command_of(pid: int) -> str:
    """Returns the command line of a running process, spaces between its words; empty if there is none."""
    if _PROC.joinpath("self").exists():
        try:
            return (
                _PROC.joinpath(str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            return ""
    try:
        listed = subprocess.run(
            ["/bin/ps", "-p", str(pid), "-o", "command="],
            capture_output=True,
            text=True,
            timeout=_PS_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout.strip()
