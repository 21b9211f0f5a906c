"""An instance as a program gets it, with the address that it connects to."""

from __future__ import annotations

from typing import Final

import msgspec

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import InstanceView
from pmoves_mesh.errors import InvalidFieldError

_RANKS: Final = {"healthy": 0, "unknown": 1, "unhealthy": 2}
_WEIGHT_MAX: Final = 1_000_000.0


class Instance(InstanceView, frozen=True, kw_only=True):
    """A running copy of a service, with the fields of `InstanceView`, as every reader gets them."""

    @property
    def key(self) -> InstanceKey:
        """Its name in the whole mesh."""
        return InstanceKey(self.name, self.node, self.id)

    @property
    def address(self) -> str:
        """Host and port as one text, `host:port`; an IPv6 address stands in brackets."""
        return self.at()

    def at(self, port: str = "") -> str:
        """Returns `host:port`.

        Args:
            port: the name of one of its further ports; empty for the first.

        Raises:
            InvalidFieldError: if it has no such port.
        """
        number = self.ports.get(port) if port else self.port
        if not number:
            raise InvalidFieldError("port", f"{self.name} on {self.node} has no port {port!r}")
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{number}"

    def url(self, path: str = "", *, scheme: str = "http", port: str = "") -> str:
        """Returns an address as a URL; raises as `at`."""
        return f"{scheme}://{self.at(port)}{path}"

    @property
    def weight(self) -> float:
        """Its share of what is resolved: `weight` of its metadata, 0 to a million; 1 if that says nothing."""
        try:
            weight = float(self.metadata.get("weight", 1))
        except (TypeError, ValueError):
            return 1.0
        return weight if 0 <= weight <= _WEIGHT_MAX else 1.0

    @property
    def is_discoverable(self) -> bool:
        """Whether its node lives and it is not in maintenance."""
        return self.node_status == "alive" and not self.maintenance

    @property
    def has_endpoint(self) -> bool:
        """Whether there is anything to connect to."""
        return bool(self.port or self.ports)

    @property
    def rank(self) -> int:
        """How far its health lets others prefer it: 0 healthy, 1 unknown, 2 unhealthy."""
        return _RANKS[self.health_status]


def instance_of(view: InstanceView) -> Instance:
    """Returns what a replica shows as a program gets it."""
    return Instance(**msgspec.structs.asdict(view))
