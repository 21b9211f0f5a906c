"""The verdict on a mesh at rest: everybody agrees, with each other, with the bucket and with the owners."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from builders import MESH
from expectations import Expectations
from host import Host, Mesh, Reader
from virtual_time import SimClock, ended

from pmoves_mesh.core.model import Instance, InstanceKey, Stamp
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.rebuild import rebuild

_CURRENT_S: Final = 60.0


async def check(mesh: Mesh, hosts: Sequence[Host], expectations: Mapping[str, Expectations]) -> None:
    """Looks for broken promises, and has the chronicle hold them."""
    wanted = _owned(hosts)
    for host in hosts:
        _check_owner(host, wanted, expectations[host.name])
    replicas = {host.name: host.agent.replica for host in hosts if host.agent is not None}
    if not mesh.broker.is_worked_off():
        mesh.chronicle.violate("events wait for a materialiser")
    await _check_bucket(mesh)
    replicas["a fresh replica"] = await _fresh(mesh, from_bucket=True)
    replicas["a replay"] = await _fresh(mesh, from_bucket=False)
    for name, replica in replicas.items():
        _check_replica(mesh, name, replica, wanted, hosts)
    _check_equal(mesh, {name: replica.registry.state() for name, replica in replicas.items()})


def _owned(hosts: Sequence[Host]) -> dict[InstanceKey, tuple[Instance, Stamp]]:
    """Returns what the hosts hold, by what is on their disks."""
    owned: dict[InstanceKey, tuple[Instance, Stamp]] = {}
    for host in hosts:
        for record, stamp in host.registered():
            owned[record.key] = (record, stamp)
    return owned


def _check_owner(
    host: Host, owned: Mapping[InstanceKey, tuple[Instance, Stamp]], expectations: Expectations
) -> None:
    """Checks that a host holds what its callers were told, in memory as on its disk."""
    mine = {key: held for key, held in owned.items() if key.node == host.name}
    for key in sorted({*expectations.possible, *((each.service, each.id) for each in mine)}):
        record, _ = mine.get(InstanceKey(key[0], host.name, key[1]), (None, None))
        expectations.check(key, record.port if record else None)
    if host.agent is not None:
        held = {key: (one.record, one.stamp) for key, one in host.agent.registrations.held.items()}
        if held != mine:
            host.violate(f"holds in memory {_difference(held, mine)}")


def _check_replica(
    mesh: Mesh,
    name: str,
    replica: Replica,
    owned: Mapping[InstanceKey, tuple[Instance, Stamp]],
    hosts: Sequence[Host],
) -> None:
    registry = replica.registry
    if replica.verifier.rejected:
        mesh.chronicle.violate(f"{name} rejected {list(replica.verifier.rejections)}")
    held = {entry.key: (entry.record, entry.stamp) for entry in registry.entries() if registry.is_listed(entry)}
    if held != owned:
        mesh.chronicle.violate(f"{name} lists, unlike the owners, {_difference(held, owned)}")
    for host in hosts:
        node = registry.nodes.get(host.name)
        status = node.status if node else "unknown"
        if status not in host.statuses():
            mesh.chronicle.violate(f"{name} takes {host.name} for {status}")
    hidden = [entry.key for entry in registry.entries() if registry.is_discoverable(entry) != _serves(entry.key, hosts)]
    if hidden:
        mesh.chronicle.violate(f"{name} does not discover as it should {hidden}")
