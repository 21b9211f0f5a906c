"""A running nats-server as a process: one that was started here, or one that an earlier agent left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pmoves_mesh.ports import Clock
from pmoves_mesh.server.host import command_of

_POLL_S: Final = 0.1
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
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.exited()
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        self._send(signal.SIGKILL)
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_REAP_S)

    def _send(self, number: signal.Signals) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
