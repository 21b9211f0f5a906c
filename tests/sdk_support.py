"""Instances for tests of the SDK, and a clock that stands still until it is told."""

from __future__ import annotations

from typing import Any, Final

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.sdk.instance import Instance

_FIELDS: Final[dict[str, Any]] = {
    "name": "rag",
    "id": "80",
    "node": "alpha",
    "host": "10.0.0.1",
    "port": 80,
    "ports": {},
    "mode": "docked",
    "capabilities": (),
    "health_url": None,
    "health_status": "healthy",
    "health_output": "",
    "node_status": "alive",
    "maintenance": False,
    "maintenance_reason": "",
    "metadata": {},
    "deregister_after": 300.0,
    "registered_at": "",
    "last_seen": "",
    "revision": 1,
    "position": 1,
    "verified": True,
    "signer": "spiffe://pmoves-mesh/node/alpha",
}


def shown(**changed: Any) -> Instance:
    """Returns an instance as an agent shows it."""
    return Instance(**{**_FIELDS, **changed})


class StandingClock(SystemClock):
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s
