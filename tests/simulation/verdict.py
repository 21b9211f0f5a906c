"""The verdict on a mesh at rest: everybody agrees, with each other, with the bucket and with the owners."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from expectations import Expectations
from host import Held, Host
from reader import Mesh, Reader
from trust import SimTrust
from virtual_time import SimClock, ended

from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.rebuild import rebuild

_CURRENT_S: Final = 60.0


async def check(mesh: Mesh, hosts: Sequence[Host], expectations: Mapping[str, Expectations]) -> None:
    """Looks for broken promises, and tells the chronicle of them."""
    for host in hosts:
        _check_owner(mesh, host, expectations[host.name])
    replicas = {host.name: host.agent.replica for host in hosts if host.agent is not None}
    replicas["a replica booted from the bucket"] = await _fresh(mesh, from_bucket=True)
    if "age" not in mesh.chronicle.happened:
        replicas["a replay of the stream"] = await _fresh(mesh, from_bucket=False)
    for name, replica in replicas.items():
        _check_replica(mesh, name, replica, hosts)
    first, *others = replicas
    for other in others:
        _check_same(mesh, f"{first} and {other}", replicas[first], replicas[other])
    await _check_bucket(mesh)


def _check_owner(mesh: Mesh, host: Host, expectations: Expectations) -> None:
    """Checks that a host holds what its callers were told, in memory as on its disk."""
    stored = host.stored()
    ports = {(key.service, key.id): record.port for key, (record, _) in stored.items()}
    for key in sorted({*expectations.possible, *ports}):
        expectations.check(key, ports.get(key))
    if host.agent is not None:
        held = {key: (one.record, one.stamp) for key, one in host.agent.registrations.held.items()}
        if held != stored:
            mesh.chronicle.violate(f"{host.name} holds {_difference(held, stored)} (memory, disk)")


def _check_replica(mesh: Mesh, name: str, replica: Replica, hosts: Sequence[Host]) -> None:
    """Checks that a replica holds what the owners hold, and that clients find what runs."""
    if replica.verifier.rejected:
        mesh.chronicle.violate(f"{name} rejected {list(replica.verifier.rejections)}")
    registry = replica.registry
    owned = Held()
    for host in hosts:
        owned |= host.stored()
        status = registry.nodes[host.name].status if host.name in registry.nodes else "unknown"
        if status != ("alive" if host.is_up else "left"):
            mesh.chronicle.violate(f"{name} takes {host.name} for {status}")
    listed = {
        entry.key: (entry.record, entry.stamp) for entry in registry.entries() if registry.is_listed(entry)
    }
    if listed != owned:
        mesh.chronicle.violate(f"{name} lists {_difference(listed, owned)} (replica, owner)")
    found = {entry.key for entry in registry.entries() if registry.is_discoverable(entry)}
    running = {key for host in hosts if host.is_up for key in host.stored()}
    if found != running:
        mesh.chronicle.violate(f"{name} does not discover as it should {sorted(found ^ running)}")


def _check_same(mesh: Mesh, names: str, one: Replica, other: Replica) -> None:
    mine, theirs = one.registry.state(), other.registry.state()
    for part in mine:
        if mine[part] != theirs[part]:
            mesh.chronicle.violate(f"{names} differ in {part}: {_difference(mine[part], theirs[part])}")


async def _check_bucket(mesh: Mesh) -> None:
    """Checks that the bucket is what the stream gives."""
    reader = Reader(mesh, SimClock(), random.Random(mesh.seed))
    verifier = Verifier(SimTrust(), reader.identities, SimClock())
    rebuilt = await rebuild(reader.log, reader.bucket, verifier, SimClock())
    if rebuilt.written or rebuilt.deleted:
        mesh.chronicle.violate(f"the bucket is not what the stream gives: {rebuilt}")


async def _fresh(mesh: Mesh, *, from_bucket: bool) -> Replica:
    reader = Reader(mesh, SimClock(), random.Random(mesh.seed))
    task = asyncio.create_task(reader.follow() if from_bucket else reader.replica.run())
    if not await reader.replica.wait_current(_CURRENT_S):
        mesh.chronicle.violate("a fresh replica does not become current")
    await ended([task])
    return reader.replica


def _difference(one: Any, other: Any) -> Any:
    """Returns what only one of two mappings or sets has."""
    if not isinstance(one, dict):
        return one, other
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return {key: (one.get(key), other.get(key)) for key in keys}
