"""The composition root: builds one agent from its settings, runs it, and ends it cleanly."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from pmoves_mesh.agent.address import advertised_host
from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.bridge import Bridge
from pmoves_mesh.agent.facts import Facts
from pmoves_mesh.agent.lease import LeaseKeeper, Tenant
from pmoves_mesh.agent.link import Link, nats_settings
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.pidfile import PidFile
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.renewal import Renewal
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.agent.trusted import first_trust, own_identity
from pmoves_mesh.config import Config
from pmoves_mesh.errors import CapacityError, StoreError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.process import EmbeddedServer
from pmoves_mesh.store.store import Store
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.materialiser import Materialiser

_log: Final = structlog.get_logger(__name__)

PID_FILE: Final = "agent.pid"
_LEAVE_S: Final = 1.5
_OUTBOX_LOADED_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an agent is made of, as far as its run and its end need to know.

    Attributes:
        loops: what runs side by side until the agent ends.
    """

    announcer: Announcer
    outbox: Outbox
    saver: Saver
    keeper: LeaseKeeper
    loops: tuple[Callable[[], Coroutine[Any, Any, None]], ...]


async def serve(
    config: Config,
    clock: Clock,
    stop: asyncio.Event,
    *,
    listening: Callable[[int], None] = lambda _: None,
) -> None:
    """Runs an agent until `stop` is set; then it leaves the mesh and ends within 5 s.

    Args:
        config: the settings.
        clock: the time.
        stop: set by whoever wants the agent to end.
        listening: called with the port of the HTTP API once it answers.

    Raises:
        MeshError: one of its subclasses, alone or in a group, if the agent cannot start or go on.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        pid_file = PidFile(config.data_dir / PID_FILE)
        pid_file.acquire()
        stack.callback(pid_file.release)
        server = await _start_server(config, clock, stack)
        connection = await stack.enter_async_context(Connection(nats_settings(config)))
        store = await stack.enter_async_context(Store.opened(config.data_dir))
        parts = await _assemble(config, clock, stack, connection=connection, store=store, listening=listening)
        loops = parts.loops if server is None else (*parts.loops, server.supervise)
        await _run(replace(parts, loops=loops), stop)


async def _start_server(config: Config, clock: Clock, stack: AsyncExitStack) -> EmbeddedServer | None:
    if not config.embedded:
        return None
    server = EmbeddedServer(locate(os.environ), config.data_dir, config.nats_port, clock)
    stack.push_async_callback(server.stop)
    await server.start()
    return server


async def _assemble(
    config: Config,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    connection: Connection,
    store: Store,
    listening: Callable[[int], None],
) -> _Parts:
    host = await advertised_host(config)
    trust, identity = await first_trust(config, connection, clock, host)
    verifier = Verifier(
        trust, NatsBucket(connection, topology.IDENTITIES), clock, accept_unsigned=config.accept_unsigned
    )
    log = NatsEventLog(connection)
    bucket = NatsBucket(connection, topology.REGISTRY)
    replica = Replica(verifier, log, bucket, clock)
    saver = Saver(config.mesh, replica, store, clock)
    await saver.load()
    outbox = Outbox(store, log, clock)
    for entry in await store.outbox(_OUTBOX_LOADED_MAX):
        replica.apply_own(entry.sealed)
        outbox.put(entry)
    author = Author(config.node, identity, store, replica, outbox, clock)
    await author.begin()
    registrations = Registrations(author, replica, log, clock, host=host, mode=config.mode)
    registrations.restore(await store.registrations())
    link = Link(config, connection, replica, identity, clock)
    keeper = _keeper(config, host, author, verifier, NatsBucket(connection, topology.LEASES), clock)
    facts = Facts(config, link, replica, outbox, keeper, clock)
    facade = Facade(
        replica=replica,
        registrar=registrations,
        node=config.node,
        describe=facts.describe,
        token=config.http_token.reveal() if config.http_token else None,
        names=frozenset({config.node, host, socket.gethostname().lower()}),
    )
    port = await stack.enter_async_context(serving(facade, config.http_host, config.http_port))
    listening(port)
    announcer = Announcer(replace(config, http_port=port), author, registrations, replica, log, clock)
    materialiser = Materialiser(NatsWorkQueue(connection), bucket, replica, clock)

    async def adopt(fresh: Identity) -> None:
        trust.admit(fresh.certificate_der)
        await link.show(fresh)
        author.identity = link.identity = fresh

    renewal = Renewal(identity, lambda: own_identity(config, clock, host), adopt, clock)
    bridge = Bridge(connection, log, replica, registrations, clock)
    speaking = (
        link.tend,
        keeper.run,
        outbox.run,
        materialiser.run,
        *((bridge.listen,) if config.accept_unsigned else ()),
        *((bridge.speak,) if config.bridge_announce else ()),
    )
    loops = (link.run, saver.run, renewal.run, *map(link.once_joined, speaking))
    return _Parts(announcer, outbox, saver, keeper, loops)


def _keeper(
    config: Config, host: str, author: Author, verifier: Verifier, leases: NatsBucket, clock: Clock
) -> LeaseKeeper:
    tenant = Tenant(
        node=config.node,
        host=host,
        ttl_s=config.lease_ttl_s,
        incarnation=lambda: author.stamp.incarnation,
        identity=lambda: author.identity,
    )
    return LeaseKeeper(tenant, verifier, leases, clock)


async def _run(parts: _Parts, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop(), name=loop.__qualname__) for loop in parts.loops]
        announcing = group.create_task(parts.announcer.run(), name="announcer")
        await stop.wait()
        announcing.cancel()
        await _leave(parts)
        for task in tasks:
            task.cancel()


async def _leave(parts: _Parts) -> None:
    """Says goodbye, and keeps what is known; none of it may keep the agent from ending."""
    try:
        async with asyncio.timeout(_LEAVE_S):
            await parts.announcer.leave("stopped")
            await parts.outbox.drained(_LEAVE_S)
        await parts.saver.save()
    except TimeoutError:
        _log.warning("left without the log's word; it is told at the next start")
    except (StoreError, CapacityError) as error:
        _log.warning("left without a last word", detail=str(error))
    await parts.keeper.release()
