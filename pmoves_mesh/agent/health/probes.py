"""Probes: what asks an instance whether it is well, and the bounds within which anything may ask."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from pmoves_mesh.core.check import Check
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance

_log: Final = structlog.get_logger(__name__)

Probe = Callable[[Instance, Check], Awaitable[Finding]]
"""Asks one instance what its check wants to know. It need not watch the time, and may be cancelled."""


async def ask(probe: Probe, instance: Instance, check: Check, timeout_s: float) -> Finding:
    """Returns what a probe finds within its time; never raises but for its own cancellation."""
    try:
        async with asyncio.timeout(timeout_s):
            return await probe(instance, check)
    except TimeoutError:
        return Finding(passed=False, output=f"timed out after {timeout_s:g} s", answered=False)
    except Exception as error:  # noqa: BLE001 - whatever a service sends, it costs a finding, not the agent
        # Neither the error's text nor its variables: either may hold the credentials of the URL.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        fault = type(error).__name__
        _log.warning("probe failed", service=instance.name, id=instance.id, fault=fault, where=where)
        return Finding(passed=False, output="the probe itself failed", answered=False)
