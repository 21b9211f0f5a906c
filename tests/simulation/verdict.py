"""The verdict on a mesh at rest: everybody agrees, with each other, with the bucket and with the owners."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from expectations import Expectations
from host import Held, Host
from reader import Mesh, Reader
from strangers import PLAIN
from trust import SimTrust, number_of
from virtual_time import SimClock, ended

from pmoves_mesh.core import records
from pmoves_mesh.core.event import InstanceExpired
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import NodeEntry, Registry
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.rebuild import rebuild

_CURRENT_S: Final = 60.0
_FRESH: Final = "a replica booted from the bucket"


async def check(mesh: Mesh, hosts: Sequence[Host], expectations: Mapping[str, Expectations]) -> None:
    """Looks for broken promises, and tells the chronicle of them."""
    _check_copies(mesh, hosts)
    for host in hosts:
        if not host.was_refused:
            _check_owner(mesh, host, expectations[host.label])
    replicas = {host.label: host.agent.replica for host in hosts if host.agent is not None}
    replicas[_FRESH] = await _fresh(mesh, from_bucket=True)
    if not mesh.law.begun_anew and not {"age", "truncate"} & mesh.chronicle.happened.keys():
        replicas["a replay of the stream"] = await _fresh(mesh, from_bucket=False)
    for name, replica in replicas.items():
        _check_replica(mesh, name, replica, hosts)
    first, *others = replicas
    for other in others:
        _check_same(mesh, f"{first} and {other}", replicas[first], replicas[other])
    await _check_bucket(mesh)


def is_settled(hosts: Sequence[Host]) -> bool:
    """Returns whether everybody knows who is lost, and nothing is left of those."""
    living = {host.name for host in hosts if host.is_up}
    return all(
        _is_settled(node, living)
        for host in hosts
        if host.agent is not None
        for node in host.agent.replica.registry.nodes.values()
    )


def _is_settled(node: NodeEntry, living: set[str]) -> bool:
    """Returns whether no witness has anything to say of a node."""
    if node.status == "alive":
        # Who is only told of by others, and signs nothing, lives for ever.
        return node.name in living or (node.announced is None and node.latest.incarnation == 0)
    return node.status == "left" or node.entries.keys() <= node.expired.keys()


def _check_copies(mesh: Mesh, hosts: Sequence[Host]) -> None:
    """Checks that of all hosts with one identity one runs."""
    for name in sorted(mesh.law.cloned):
        running = [host.label for host in hosts if host.name == name and host.is_up]
        if len(running) != 1:
            mesh.chronicle.violate(f"of the hosts with the identity of {name}, these run: {running}")


def _check_owner(mesh: Mesh, host: Host, expectations: Expectations) -> None:
    """Checks that a host holds what its callers were told, in memory as on its disk."""
    stored = host.stored()
    ports = {(key.service, key.id): record.port for key, (record, _) in stored.items()}
    for key in sorted({*expectations.possible, *ports}):
        expectations.check(key, ports.get(key))
    if host.agent is not None:
        held = {key: (one.record, one.stamp) for key, one in host.agent.registrations.held.items()}
        if held != stored:
            mesh.chronicle.violate(f"{host.label} holds {_difference(held, stored)} (memory, disk)")


def _check_replica(mesh: Mesh, name: str, replica: Replica, hosts: Sequence[Host]) -> None:
    """Checks that a replica holds what the owners hold, and that clients find what runs."""
    law, registry = mesh.law, replica.registry
    for one in replica.verifier.rejections:
        unsigned = one.reason == "unsigned" and not mesh.accept_unsigned
        unknown = one.reason == "untrusted_issuer" and name in law.rejoined
        # What was signed before its signer or his CA was disowned may come back with another stream.
        back = law.begun_anew and (one.position == 0 or one.reason in {"untrusted_issuer", "revoked"})
        if one.position not in law.refusable and not unsigned and not unknown and not back:
            mesh.chronicle.violate(f"{name} rejected {one}")
    owned, running, gone = Held(), set[InstanceKey](), set[InstanceKey]()
    # That a node left may have been said in a stream that is no more.
    away = {"left", "lost", "unknown"} if law.begun_anew else {"left"}
    for host in hosts:
        if host.was_refused:
            continue
        status = registry.nodes[host.name].status if host.name in registry.nodes else "unknown"
        if host.vanished:
            gone |= {key for key in host.stored() if status == "left"}
            # A witness that was revoked since may have said so: the next one that boots says it again.
            wrong = status == "alive" and not (law.begun_anew and name == _FRESH)
        else:
            owned |= host.stored()
            wrong = status != "alive" if host.is_up else status not in away
            running |= set(host.stored()) if host.is_up else set()
        if not host.is_up and not host.vanished:
            # It has left: nobody takes back what a witness removed, nor states anew what is disowned.
            stored = set(host.stored())
            unsaid = law.begun_anew or law.is_disowned(host.name)
            gone |= stored if unsaid else law.expired & stored
        if wrong:
            mesh.chronicle.violate(f"{name} takes {host.name} for {status}")
    unsure = {key for key in owned if law.is_unsure(key)}
    _check_listed(mesh, name, registry, owned, gone | unsure)
    signed = {entry.key for entry in registry.entries() if entry.verified}
    found = {key for key in signed if registry.is_discoverable(registry.nodes[key.node].entries[key])}
    wanted = {key for key in running if not law.is_evicted(key)}
    if found - unsure != wanted - unsure:
        mesh.chronicle.violate(f"{name} does not discover as it should {sorted((found ^ wanted) - unsure)}")


def _check_listed(mesh: Mesh, name: str, registry: Registry, owned: Held, optional: set[InstanceKey]) -> None:
    """Checks that what is listed is what the owners hold and no operator evicted, and nothing else."""
    law = mesh.law
    entries = [entry for entry in registry.entries() if registry.is_listed(entry)]
    listed = {entry.key: (entry.record, entry.stamp) for entry in entries if entry.verified}
    wanted = {key: held for key, held in owned.items() if not law.is_evicted(key)}
    for key in optional:
        listed.pop(key, None)
        wanted.pop(key, None)
    if listed != wanted:
        mesh.chronicle.violate(f"{name} lists {_difference(listed, wanted)} (replica, owner)")
    if disowned := [entry.key for entry in entries if entry.fingerprint in law.revoked]:
        mesh.chronicle.violate(f"{name} lists what revoked certificates signed: {disowned}")
    signing = {node.name for node in registry.nodes.values() if node.latest.incarnation > 0}
    unsigned = {entry.key for entry in entries if not entry.verified}
    said = {key for key, there in law.unsigned.items() if there and not law.is_evicted(key)}
    plain = {key for key in said if key.node not in signing} if mesh.accept_unsigned else set()
    if unsigned - law.faded != plain - law.faded and not law.begun_anew:
        mesh.chronicle.violate(
            f"{name} lists of those who do not sign {sorted((unsigned ^ plain) - law.faded)}"
        )
    roots = registry.roots.certificates
    if roots and tuple(map(number_of, roots)) != law.roots and not law.begun_anew:
        mesh.chronicle.violate(f"{name} believes other CAs")


def _check_same(mesh: Mesh, names: str, one: Replica, other: Replica) -> None:
    mine, theirs = _state(mesh, one), _state(mesh, other)
    for part in mine:
        if mine[part] != theirs[part]:
            mesh.chronicle.violate(f"{names} differ in {part}: {_difference(mine[part], theirs[part])}")


def _state(mesh: Mesh, replica: Replica) -> dict[str, Any]:
    """Returns what replicas must agree on.

    Once the stream is another one, an event may stand in it or before it, and nobody is left who
    could say again what those said who do not sign, or who left, or are lost.
    """
    state, law = replica.registry.state(), mesh.law
    if not law.begun_anew:
        return state
    nodes, instances = state["nodes"], state["instances"]
    signing = {name for name, node in replica.registry.nodes.items() if node.latest.incarnation > 0}
    there = {name for name in signing - law.vanished if replica.registry.nodes[name].status == "alive"}
    listed = {key for key in state["listed"] if key.node in there and not law.is_unsure(key)}
    return {
        "nodes": {name: (held[0], *held[2:]) for name, held in nodes.items() if name in there},
        "instances": {key: (*held[:2], held[4]) for key, held in instances.items() if key in listed},
        "listed": listed,
        "revoked": {one for one in state["revoked"] if not law.is_void(one)},
        "roots": state["roots"].certificates,
    }


async def _check_bucket(mesh: Mesh) -> None:
    """Checks that the bucket is what the stream gives.

    An expiry after which the node announced itself again says nothing any more; what it ended may be
    there instead, or nothing.
    Of hosts with one identity each lists what it knows, and what a manifest leaves out and a later one
    lists again at its old stamp is known to the bucket alone; so what is said of those is left out.
    """
    reader = Reader(mesh, SimClock(), random.Random(mesh.seed))
    verifier = Verifier(
        SimTrust(mesh.law.roots), reader.identities, SimClock(), accept_unsigned=mesh.accept_unsigned
    )
    before = {entry.key: records.decode(entry.value) async for entry in reader.bucket.load()}
    await rebuild(reader.log, reader.bucket, verifier, SimClock())
    after = {entry.key: records.decode(entry.value) async for entry in reader.bucket.load()}
    if mesh.law.begun_anew:
        before, after = (
            {key: records.of_before(one) for key, one in held.items()} for held in (before, after)
        )
    changed = [key for key in {**before, **after} if not _ways(key, before) & _ways(key, after)]
    apart = {*mesh.law.cloned, *(PLAIN if mesh.law.begun_anew else ())}
    forgotten = ("evicted.", "roots", "service.old") if mesh.law.begun_anew else ()
    wrong = [key for key in changed if apart.isdisjoint(key.split(".")) and not key.startswith(forgotten)]
    if wrong:
        mesh.chronicle.violate(f"the bucket does not hold what the stream gives of {sorted(wrong)}")


def _ways(key: str, held: Mapping[str, Record]) -> set[bytes | None]:
    """Returns what a bucket may as well hold under a key as what it does."""
    record, instance = held.get(key), records.parse_instance_key(key)
    node = held.get(records.node_key(instance.node)) if instance is not None else None
    if record is not None and node is not None and record.subject == InstanceExpired.subject:
        said = node.ended or node
        if records.is_taken_back(record, said.stamp):
            return {None, record.ended and records.encode(record.ended)}
    return {record and records.encode(record)}


async def _fresh(mesh: Mesh, *, from_bucket: bool) -> Replica:
    reader = Reader(mesh, SimClock(), random.Random(mesh.seed))
    if not from_bucket:
        await reader.replica.verifier.learn_roots(reader.bucket)
    task = asyncio.create_task(reader.follower.run() if from_bucket else reader.replica.run())
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
