"""One run of a simulated agent: the real classes, put together as `agent.agent` does.

What that brings in besides, NATS and files and HTTP, is left out or simulated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from builders import MESH
from disk import SimStore
from reader import Mesh, Reader
from trust import Identity
from virtual_time import SimClock
from witness import watching

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.liveness.clones import Clones
from pmoves_mesh.agent.liveness.lease import LeaseKeeper, Tenant
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.reconcile import Charge, Reconciler
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.config import Config
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.materialiser import Materialiser

_OUTBOX_LOADED_MAX: Final = 1_000_000
_RETRY_S: Final = 1.0


@dataclass(frozen=True)
class Agent:
    """One run of the agent, while it lives."""

    reader: Reader
    store: SimStore
    author: Author
    outbox: Outbox
    saver: Saver
    registrations: Registrations
    announcer: Announcer
    materialiser: Materialiser
    lease: LeaseKeeper
    clones: Clones
    reconciler: Reconciler

    @property
    def replica(self) -> Replica:
        return self.reader.replica

    async def renewed(self, identity: Identity, clock: SimClock) -> None:
        """Lets the agent speak with a new certificate; mirrors `Custody._renewed`."""
        self.replica.verifier.trust.admit(identity.certificate_der)
        while True:
            try:
                await self.reader.follower.show(identity)
                break
            except LogUnavailable:
                await clock.sleep(_RETRY_S)
        self.author.identity = identity
        self.announcer.restate()


@dataclass(frozen=True, kw_only=True)
class Makings:
    """What an agent is made of.

    Attributes:
        label: tells hosts with the same identity apart.
        connection: gives the connection that there is now.
        materialise: runs the materialiser.
    """

    mesh: Mesh
    config: Config
    label: str
    identity: Identity
    clock: SimClock
    rng: random.Random
    reader: Reader
    store: SimStore
    connection: Callable[[], str]
    materialise: Callable[[Materialiser], Coroutine[Any, Any, None]]


async def assembled(makings: Makings) -> Agent:
    """Builds the agent; mirrors `agent._find_voice` and `agent._assemble`."""
    reader, store, clock, identity = makings.reader, makings.store, makings.clock, makings.identity
    replica, log, node = reader.replica, reader.log, makings.config.node
    replica.verifier.trust.admit(identity.certificate_der)
    saver = Saver(MESH, replica, store, clock)
    await saver.load()
    outbox = Outbox(store, log, clock)
    for entry in await store.outbox(_OUTBOX_LOADED_MAX):
        replica.apply_own(entry.sealed)
        outbox.put(entry)
    author = Author(node, identity, store, replica, outbox, clock)
    await author.begin()
    host = f"{node}.example"
    registrations = Registrations(author, replica, log, clock, host=host, mode="docked")
    registrations.restore(await store.registrations())
    await registrations.drop_forbidden()
    clones = Clones(author)
    announcer = Announcer(makings.config, author, registrations, replica, log, clock)
    charge = Charge(
        node=node,
        interval_s=makings.config.reconcile_s,
        restate=announcer.restate,
        waiting=lambda: outbox.depth,
        begun_anew=reader.follower.begun_anew,
        begin_anew=reader.follower.begin_anew,
    )
    tenant = Tenant(
        node=node,
        host=f"{makings.label.replace('+', '-copy')}.example",
        ttl_s=makings.mesh.lease_ttl_s,
        incarnation=lambda: author.stamp.incarnation,
        identity=lambda: author.identity,
        connection=makings.connection,
    )
    return Agent(
        reader=reader,
        store=store,
        author=author,
        outbox=outbox,
        saver=saver,
        registrations=registrations,
        announcer=announcer,
        materialiser=Materialiser(reader.queue, reader.bucket, replica, clock),
        lease=LeaseKeeper(tenant, replica.verifier, reader.leases, clock, clones.note),
        clones=clones,
        reconciler=Reconciler(charge, registrations, replica, log, reader.bucket, clock),
    )


def loops(agent: Agent, makings: Makings) -> list[Coroutine[Any, Any, None]]:
    """Returns what runs side by side until the agent ends, but for the announcer."""
    joined: list[Callable[[], Coroutine[Any, Any, None]]] = [
        agent.outbox.run,
        agent.outbox.forget_sent,
        partial(makings.materialise, agent.materialiser),
        agent.lease.run,
        agent.reconciler.run,
        *watching(makings.mesh, agent, makings.clock, makings.rng),
    ]
    return [
        agent.reader.follower.run(),
        agent.saver.run(),
        agent.clones.run(),
        *(agent.reader.follower.once_joined(one)() for one in joined),
    ]
