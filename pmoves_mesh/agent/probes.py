"""Probes: what asks an instance whether it is well, and the bounds within which anything may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance

_log: Final = structlog.get_logger(__name__)

Probe = Callable[[Instance], Awaitable[Finding]]
"""Asks one instance. It need not watch the time, and may be cancelled at any moment."""


async def ask(probe: Probe, instance: Instance, timeout_s: float) -> Finding:
    """Returns what a probe finds within its time; never raises but for its own cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            return await probe(instance)
    except TimeoutError:
        return Finding(passed=False, output=f"timed out after {timeout_s:g} s", answered=False)
    except Exception:  # noqa: BLE001 - whatever a service sends, it costs a finding and not the agent
        _log.warning("probe failed in itself", service=instance.name, id=instance.id, exc_info=True)
        return Finding(passed=False, output="the probe itself failed", answered=False)
