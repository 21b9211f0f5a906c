"""How a program of these scenarios runs: until it is told to end, by Ctrl-C or by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Runs what serves, and lets it end in order."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_until_terminated(serving))


async def _until_terminated(serving: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(serving)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
