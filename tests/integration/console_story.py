"""A made-up mesh for pictures of the console: four hosts of a home laboratory, and an eventful hour."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from builders import NOW_MS, announced, deregistered, instance, registered, revoked
from http_support import Served

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.load import LoadView
from pmoves_mesh.core.model import Instance

MINUTE_MS: Final = 60_000
BEGIN_MS: Final = NOW_MS + 10 * 60 * MINUTE_MS
MOMENT_MS: Final = BEGIN_MS + 37 * MINUTE_MS


class StoryClock(SystemClock):
    """A date that moves only when the story goes on."""

    NOW_MS: Final = BEGIN_MS + 55 * MINUTE_MS

    def __init__(self) -> None:
        self.at_ms = BEGIN_MS

    def now_ms(self) -> int:
        return self.at_ms


class Surveyed:
    """What the leases of the story's nodes say."""

    async def loads(self, nodes: Collection[str]) -> Mapping[str, LoadView]:
        return {
            node: LoadView(cpu=cpu, memory=memory, gpu=gpu, age_s=1.2, stale=False)
            for node, (cpu, memory, gpu) in LOADS.items()
            if node in nodes
        }

    async def looks(self, node: str) -> Mapping[str, str] | None:
        return LOOKS.get(node)

    async def round_trips_ms(self, _nodes: Collection[str]) -> Mapping[str, float]:
        return {}


LOADS: Final = {
    "alpha": (0.21, 0.38, 0.12),
    "gpu-box": (0.64, 0.71, 0.93),
    "jetson-orin": (0.35, 0.52, 0.47),
    "vps": (0.08, 0.61, None),
}
LOOKS: Final = {
    "alpha": {"gpu-box": "", "vps": ""},
    "gpu-box": {"vps": "", "jetson-orin": ""},
    "jetson-orin": {"alpha": "", "gpu-box": ""},
    "vps": {"jetson-orin": "nothing answers", "alpha": ""},
}


def gpu(model: str, memory_gb: int = 0) -> dict[str, Any]:
    return {"vendor": "nvidia", "model": model, **({"memory_gb": memory_gb} if memory_gb else {})}


NODES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "alpha": (
        "10.0.0.5",
        "docked",
        {"cpu_cores": 32, "memory_gb": 128, "arch": "amd64", "gpu": [gpu("RTX 4090", 24)]},
    ),
    "jetson-orin": (
        "10.0.0.6",
        "standalone",
        {"board": "Jetson AGX Orin", "cpu_cores": 12, "memory_gb": 64, "arch": "arm64", "gpu": [gpu("Orin")]},
    ),
    "gpu-box": (
        "10.0.0.7",
        "docked",
        {"cpu_cores": 24, "memory_gb": 96, "arch": "amd64", "gpu": [gpu("RTX A6000", 48)] * 2},
    ),
    "vps": ("203.0.113.8", "docked", {"cpu_cores": 4, "memory_gb": 8, "arch": "amd64"}),
}
SERVICES: Final = {
    "agent-zero": ("alpha", 50051, ("agent", "tools")),
    "hi-rag": ("gpu-box", 8086, ("rag", "search")),
    "ollama": ("gpu-box", 11434, ("llm", "gpu")),
    "comfyui": ("gpu-box", 8188, ("image", "gpu")),
    "tensorzero": ("alpha", 3000, ("llm", "gateway")),
    "neo4j": ("alpha", 7474, ("graph",)),
    "whisper": ("jetson-orin", 9000, ("stt", "gpu")),
    "yolo": ("jetson-orin", 8554, ("vision", "gpu")),
    "jellyfin": ("vps", 8096, ("media",)),
    "minio": ("vps", 9001, ("storage",)),
    "supabase": ("vps", 8000, ("db",)),
}
METADATA: Final = {"ollama": {"model": "qwen3:32b", "context": 32768, "quantised": True}}
# Minutes after the begin, the service, and what of its record is said.
TURNS: Final = (
    (12, "whisper", {"health_status": "unhealthy", "health_output": "connection refused"}),
    (14, "whisper", {"health_status": "healthy", "health_output": "HTTP 200"}),
    (21, "comfyui", {"health_status": "unhealthy", "health_output": "HTTP 502"}),
    (23, "comfyui", {"health_status": "healthy", "health_output": "HTTP 200"}),
    (29, "ollama", {"health_status": "unhealthy", "health_output": "HTTP 503: model is loading"}),
    (31, "ollama", {"health_status": "healthy", "health_output": "HTTP 200"}),
    (36, "supabase", {"health_status": "unhealthy", "health_output": "nothing answers within 5 s"}),
    (36, "jellyfin", {"health_status": "unhealthy", "health_output": "nothing answers within 5 s"}),
    (39, "supabase", {"health_status": "healthy", "health_output": "HTTP 200"}),
    (40, "jellyfin", {"health_status": "healthy", "health_output": "HTTP 200"}),
    (44, "minio", {"maintenance": True, "maintenance_reason": "disks are exchanged"}),
    (48, "hi-rag", {"metadata": {"model": "bge-m3", "index": "2026-01"}}),
    (52, "ollama", {"health_status": "unhealthy", "health_output": "HTTP 503: model is loading"}),
)


async def tell(mesh: Served, clock: StoryClock) -> None:
    """Tells the story from its begin to now."""
    revisions = dict.fromkeys(NODES, 1)
    records: dict[str, Instance] = {}

    async def say(event: Event) -> None:
        revisions[event.node] = revisions.get(event.node, 1) + 1
        await mesh.tell(event)

    for node, (host, mode, resources) in NODES.items():
        clock.at_ms += 20_000
        said = announced(revisions[node], node=node, host=host, port=8100, mode=mode, resources=resources)
        await say(said)
    for name, (node, port, capabilities) in SERVICES.items():
        clock.at_ms += 15_000
        host = NODES[node][0]
        records[name] = instance(
            name,
            node,
            f"{name}-1",
            host=host,
            port=port,
            capabilities=capabilities,
            health_url=f"http://{host}:{port}/healthz",
            health_status="healthy",
            health_output="HTTP 200",
            metadata=METADATA.get(name, {}),
            registered_at="2026-01-02T10:02:00Z",
        )
        await say(registered(revisions[node], records[name]))
    for minute, name, change in TURNS:
        clock.at_ms = BEGIN_MS + minute * MINUTE_MS + 13_000
        records[name] = instance(**{**fields_of(records[name]), **change, "instance_id": records[name].id})
        await say(registered(revisions[records[name].node], records[name]))
    await refuse(mesh, records["jellyfin"])
    await say(deregistered(revisions["jetson-orin"], records["yolo"]))
    clock.at_ms = StoryClock.NOW_MS


def fields_of(record: Instance) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__ if name != "id"}


async def refuse(mesh: Served, record: Instance) -> None:
    """Says what is not believed: a record of a node that another node signed; and revokes a certificate."""
    forged = envelope.seal(registered(99, record), mesh.authority.identity("gpu-box"))
    mesh.broker.publish(forged, None)
    old = mesh.authority.identity("laptop")
    position = mesh.publish(revoked(old.fingerprint), kind="operator")
    await mesh.replica.wait_position(position, 10)
