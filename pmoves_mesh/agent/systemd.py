"""Tells systemd how this agent is: when it is ready, that it still lives, and that it ends.

The sign of life is given by the event loop itself, so an agent that hangs gives none and is restarted.

Source: sd_notify(3), systemd.service(5) `Type=notify` and `WatchdogSec=`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_NOT_WATCHED_S: Final = 3600.0


class ServiceManager:
    """Whoever started this process, if it wants to know."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Takes where it listens, and how often it wants a sign of life."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace begins with a zero byte, which no environment can hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        ours = environ.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        usec = environ.get("WATCHDOG_USEC", "")
        self._watchdog_s = int(usec) / 1e6 if ours and usec.isdecimal() and address else 0.0

    def ready(self, status: str) -> None:
        """Says that the agent answers, in one line for people."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Says that the agent ends."""
        self._tell("STOPPING=1\nSTATUS=leaving the mesh")

    async def run(self, clock: Clock) -> None:
        """Gives a sign of life twice as often as is asked for, for ever."""
        while True:
            if self._watchdog_s:
                self._tell("WATCHDOG=1")
            await clock.sleep(self._watchdog_s / 2 or _NOT_WATCHED_S)

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            _log.warning("the service manager is not told", detail=error.strerror)
