"""What an agent stands on before it can do anything: its trust, its NATS server, its connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from pmoves_mesh.agent.address import Advertised, advertised
from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.access import Door, Issued, IssuedSource, access_of
from pmoves_mesh.agent.trust.issued import IssuedFollower
from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.trusted import first_trust, identity_files, keeps_ca
from pmoves_mesh.config import Config
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.cluster import Cluster
from pmoves_mesh.server.door import GuestDoor
from pmoves_mesh.server.process import EmbeddedServer, Secured
from pmoves_mesh.store.issued import COPY_FILE, IssuedCopy
from pmoves_mesh.store.ledger import LEDGER_FILE, Ledger


@dataclass(frozen=True, slots=True)
class Ground:
    """What every part of an agent may stand on.

    Attributes:
        advertised: the addresses at which others reach this node.
        identity: who this node was at its start; renewals follow.
        ledger: of the CA; empty where this host does not keep it.
        issued: says who may log in to NATS: the ledger, or this host's copy of it.
        told: keeps that copy; None where there is none.
        server: the embedded nats-server, if this agent runs it.
        door: lets identities log in to the nats-server of this host; None where none asks for them.
    """

    config: Config
    clock: Clock
    advertised: Advertised
    trust: Trust
    identity: Identity
    ledger: Ledger
    issued: IssuedSource
    told: IssuedFollower | None
    connection: Connection
    server: EmbeddedServer | None
    door: Door | None

    @property
    def host(self) -> str:
        """The address that this node announces."""
        return self.advertised.host

    def access(self, certificates: Iterable[Issued]) -> Access:
        """Returns who may log in to the nats-server, when these certificates were issued."""
        files = identity_files(self.config)
        owner = self.issued.owner if isinstance(self.issued, IssuedCopy) else ""
        return access_of(self.trust.roots, self.identity, files, certificates, self.clock.now_ms(), owner)


async def lay(config: Config, clock: Clock, stack: AsyncExitStack) -> Ground:
    """Returns the ground, whose parts end with `stack`.

    A server that asks for certificates needs this node's own before it starts; one that does not
    is asked first whether there is a mesh already.

    Raises:
        MeshError: one of its subclasses, if there is no ground to stand on.
    """
    own = await advertised(config)
    hosts = tuple(dict.fromkeys((own.host, *own.addresses.values())))
    ledger = Ledger(config.tls_dir / LEDGER_FILE)
    if not config.secured:
        server = await _started(config, clock, stack, None)
        connection = await stack.enter_async_context(Connection(nats_settings(config)))
        trust, identity = await first_trust(config, clock, hosts, connection)
        await _record(config, identity, clock)
        return Ground(config, clock, own, trust, identity, ledger, ledger, None, connection, server, None)
    trust, identity = await first_trust(config, clock, hosts)
    await _record(config, identity, clock)
    issued, told = await _source(config, ledger, clock)
    certificates: Sequence[Issued] = await asyncio.to_thread(issued.certificates)
    owner = issued.owner if isinstance(issued, IssuedCopy) else ""
    files = identity_files(config)
    access = access_of(trust.roots, identity, files, certificates, clock.now_ms(), owner)
    guest = None if config.nats_dir is None else GuestDoor(config.nats_dir, clock)
    if guest is not None:
        await guest.admit(access)
    server = await _started(config, clock, stack, access)
    connection = await stack.enter_async_context(Connection(nats_settings(config)))
    door = guest or server
    return Ground(config, clock, own, trust, identity, ledger, issued, told, connection, server, door)


async def _source(
    config: Config, ledger: Ledger, clock: Clock
) -> tuple[Ledger | IssuedCopy, IssuedFollower | None]:
    """Returns what says who may log in: the ledger, or on the other hosts of a cluster a copy of it."""
    if not config.nats_cluster or keeps_ca(config):
        return ledger, None
    copy = IssuedCopy(config.data_dir / COPY_FILE)
    told = IssuedFollower(config, copy, lambda: config.ca_urls, clock)
    await told.first()
    return copy, told


async def _started(
    config: Config, clock: Clock, stack: AsyncExitStack, access: Access | None
) -> EmbeddedServer | None:
    if not config.embedded:
        return None
    secured = None
    if access is not None:
        certificate, key = identity_files(config)
        secured = Secured(
            host=config.nats_host,
            mesh=config.mesh,
            certificate=certificate,
            key=key,
            access=access,
            leaf_port=config.leaf_port,
            cluster=_cluster(config),
        )
    server = EmbeddedServer(locate(os.environ), config.data_dir, config.nats_port, clock, secured)
    stack.push_async_callback(server.stop)
    await server.start()
    return server


def _cluster(config: Config) -> Cluster | None:
    """Returns the servers that keep the streams together with this one; None where it is alone."""
    nodes = config.nats_cluster
    if not nodes:
        return None
    own = next(one for one in nodes if one.name == config.node)
    others = tuple(one.place for one in nodes if one is not own)
    names = tuple(one.name for one in nodes)
    return Cluster(own=own.name, nodes=names, routes=others, host=config.nats_host, port=own.port)


async def _record(config: Config, identity: Identity, clock: Clock) -> None:
    """Enters what this host gave itself into the CA's ledger: its identity, and its TLS files."""
    if keeps_ca(config):
        issuing = Issuing(config.tls_dir, config.mesh, config.node)
        await asyncio.to_thread(issuing.record, identity.certificate, clock.now_ms())
        await asyncio.to_thread(issuing.record_files, clock.now_ms())
