"""What systemd is told of the agent: that it answers, how it is, that its loop still turns, that it ends.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Final, Self

import structlog

from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_STATUS_S: Final = 5.0


class Notifier:
    """Tells systemd, if it is what started the agent; else nobody."""

    def __init__(
        self, address: str, watchdog_s: float | None, status: Callable[[], str], clock: Clock
    ) -> None:
        """Takes what systemd gives to a service, and what it is told.

        Args:
            address: of its socket: a path, or a name of the abstract namespace after `@`; empty for none.
            watchdog_s: seconds within which it kills a service that it does not hear of; None for never.
            status: returns in one line how the agent is.
            clock: the time.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._status = status
        self._clock = clock
        self._unheard = False

    @classmethod
    def of(cls, environment: Mapping[str, str], status: Callable[[], str], clock: Clock) -> Self:
        """Returns what tells the service manager that an environment names; see `__init__`."""
        text = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) and meant else None
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s, status, clock)

    def ready(self) -> None:
        """Tells that the agent answers; it may not have joined the mesh yet, and need not."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Tells that the agent ends in order."""
        self._tell("STOPPING=1")

    async def run(self) -> None:
        """Tells for ever that the loop turns, and how the agent is."""
        if not self._address:
            return
        pause_s = _STATUS_S if self._watchdog_s is None else min(_STATUS_S, self._watchdog_s / 3)
        before = ""
        while True:
            line = self._status()
            self._tell("WATCHDOG=1", *([f"STATUS={line}"] if line != before else []))
            before = line
            await self._clock.sleep(pause_s)

    def _tell(self, *words: str) -> None:
        """Sends one datagram; one that is not taken at once is none that is worth waiting for."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as wire:
                wire.setblocking(False)
                wire.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            if not self._unheard:
                _log.warning("systemd is not told how the agent is", detail=error.strerror)
            self._unheard = True
        else:
            self._unheard = False
