"""What an engine says of a container, and of what happens to containers, as far as it matters here.

Docker and Podman say the same in different words: every field may be missing or null, an address of
everybody may be empty, and a container's death is `die` or `died`.

Source: Docker Engine API 1.24 and later; Podman's Docker-compatible API.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field

from pmoves_mesh.core.health import Finding

_HOST_NETWORK: Final = "host"
_SHARED_NETWORK: Final = "container:"
_HEALTH: Final = "health_status"
_TELLING: Final = frozenset(
    {
        "start",
        "restart",
        "die",
        "died",
        "stop",
        "kill",
        "pause",
        "unpause",
        "rename",
        "update",
        "destroy",
        "remove",
        _HEALTH,
    }
)
"""What may change whether and how a container is registered; not what its health check runs every time."""


class Health(Struct, frozen=True, rename="pascal"):
    """What a container's own health check found: `starting`, `healthy`, `unhealthy`; else it has none."""

    status: str = "none"


class State(Struct, frozen=True, rename="pascal"):
    """Whether a container runs, and how; `pid` is that of its first process, on the host."""

    running: bool = False
    status: str = ""
    pid: int = 0
    health: Health | None = None


class Binding(Struct, frozen=True, rename="pascal"):
    """Where on the host a port of a container is published; an empty address is every one."""

    host_ip: str = ""
    host_port: str = ""


class Settings(Struct, frozen=True, rename="pascal"):
    """How a container was made."""

    image: str = ""
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, Any] | None = None


class HostSettings(Struct, frozen=True, rename="pascal"):
    """Where a container stands on its host."""

    network_mode: str = ""


class Network(Struct, frozen=True, rename="pascal"):
    """The ports of a container, such as `8080/tcp`, and where each is published; null if nowhere."""

    ports: dict[str, list[Binding] | None] | None = None


class Container(Struct, frozen=True, rename="pascal"):
    """One container, as `GET /containers/{id}/json` tells of it."""

    id: str = ""
    name: str = ""
    state: State = field(default_factory=State)
    config: Settings = field(default_factory=Settings)
    host_config: HostSettings = field(default_factory=HostSettings)
    network_settings: Network = field(default_factory=Network)

    @property
    def plain_name(self) -> str:
        """Its name as people write it; Docker puts a `/` before it."""
        return self.name.removeprefix("/")

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.config.labels or {}

    @property
    def published(self) -> dict[str, list[Binding]]:
        """Its ports that are published, and where."""
        ports = self.network_settings.ports or {}
        return {port: bindings for port, bindings in ports.items() if bindings}

    @property
    def serves(self) -> bool:
        """Whether it runs, and is neither paused nor between two starts."""
        return self.state.running and self.state.status in {"running", ""}

    @property
    def on_host_network(self) -> bool:
        """Whether its ports are the host's own."""
        return self.host_config.network_mode == _HOST_NETWORK

    @property
    def shares_network_of(self) -> str | None:
        """The id or name of the container in whose network it is; None if it has its own."""
        mode = self.host_config.network_mode
        return mode.removeprefix(_SHARED_NETWORK) if mode.startswith(_SHARED_NETWORK) else None


class Listed(Struct, frozen=True, rename="pascal"):
    """One line of `GET /containers/json`."""

    id: str


class _Actor(Struct, frozen=True):
    """What an event is about."""

    id: str = field(default="", name="ID")


class EngineEvent(Struct, frozen=True):
    """One line of `GET /events`.

    Attributes:
        action: what happened; with Docker `health_status: healthy`, with Podman `health_status`.
        status: the same, in the words of older engines.
    """

    action: str = field(default="", name="Action")
    actor: _Actor = field(default_factory=_Actor, name="Actor")
    status: str = ""
    id: str = ""

    @property
    def container(self) -> str:
        """The container's id."""
        return self.actor.id or self.id

    @property
    def tells(self) -> bool:
        """Whether it may change whether and how the container is registered."""
        return self._what in _TELLING

    @property
    def is_of_health(self) -> bool:
        """Whether a health check ended; Podman says so every time, Docker when something changed."""
        return self._what == _HEALTH

    @property
    def _what(self) -> str:
        return (self.action or self.status).partition(":")[0].strip()


def judge(state: State) -> Finding:
    """Returns how a container is by the word of its engine; unknown while it starts."""
    found = state.health.status if state.health else "none"
    if not state.running:
        return Finding(passed=False, output="the container does not run")
    if state.status == "paused":
        return Finding(passed=False, output="the container is paused")
    if found in {"healthy", "unhealthy"}:
        return Finding(passed=found == "healthy", output=f"the container is {found}")
    if found == "starting":
        return Finding(passed=None, output="the container is starting")
    return Finding(passed=True, output="the container runs")
