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

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.application import ApplicationStreams
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.bridge import Bridge
from pmoves_mesh.agent.containers.taking_part import containers_for
from pmoves_mesh.agent.custody import Custody
from pmoves_mesh.agent.facts import Facts
from pmoves_mesh.agent.ground import Ground, lay
from pmoves_mesh.agent.growing import Growth
from pmoves_mesh.agent.health.care import care_for
from pmoves_mesh.agent.history.taking_part import history_of
from pmoves_mesh.agent.lan import telling
from pmoves_mesh.agent.leaf import LeafNode, begin
from pmoves_mesh.agent.link import Link
from pmoves_mesh.agent.liveness.clones import Clones
from pmoves_mesh.agent.liveness.lease import Cargo, LeaseKeeper
from pmoves_mesh.agent.liveness.reachability import reachability_of
from pmoves_mesh.agent.liveness.watching import keeper_of, watching
from pmoves_mesh.agent.micro.taking_part import micro_loops
from pmoves_mesh.agent.naming import naming_for
from pmoves_mesh.agent.notify import Notifier
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.pidfile import PidFile
from pmoves_mesh.agent.reconcile import Charge, Reconciler
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.resources.equipment import equip
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.agent.trust.certificates import CertificateWatch
from pmoves_mesh.agent.trust.issued import IssuedLister
from pmoves_mesh.agent.trust.trusted import identity_files, keeps_ca, local_secret
from pmoves_mesh.config import Config
from pmoves_mesh.errors import CapacityError, StoreError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.store import Store
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import Facade, RegistryFacts
from pmoves_mesh.views.http.listener import Exposure, TlsFiles
from pmoves_mesh.views.latencies import Latencies
from pmoves_mesh.views.materialiser import Materialiser
from pmoves_mesh.views.metrics import Metrics

_log: Final = structlog.get_logger(__name__)

PID_FILE: Final = "agent.pid"
_LEAVE_S: Final = 1.5
_OUTBOX_LOADED_MAX: Final = 1_000_000

_Listening = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an agent is made of, as far as its run and its end need to know.

    Attributes:
        loops: what runs side by side until the agent ends.
    """

    announcer: Announcer
    outbox: Outbox
    saver: Saver
    lease: LeaseKeeper
    notifier: Notifier
    loops: tuple[Callable[[], Coroutine[Any, Any, None]], ...]


@dataclass(frozen=True, slots=True)
class _Voice:
    """What speaks and remembers for this node."""

    replica: Replica
    log: NatsEventLog
    outbox: Outbox
    author: Author
    registrations: Registrations
    saver: Saver


async def serve(
    config: Config,
    clock: Clock,
    stop: asyncio.Event,
    *,
    listening: _Listening = lambda _: None,
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
        leaf = await begin(config, clock, stack)
        ground = await _unless(stop, lay(config, clock, stack))
        if ground is None:
            return
        store = await stack.enter_async_context(Store.opened(config.data_dir))
        voice = await _find_voice(ground, store)
        parts = await _assemble(ground, voice, stack, listening, leaf)
        parts.notifier.ready()
        await _run(parts, stop)


async def _unless(stop: asyncio.Event, laying: Coroutine[Any, Any, Ground]) -> Ground | None:
    """Returns the ground, or None if the agent is to end before it is laid: it may wait for others."""
    task, stopped = asyncio.ensure_future(laying), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _find_voice(ground: Ground, store: Store) -> _Voice:
    """Takes up what an earlier run knew and had to say."""
    config, clock, connection = ground.config, ground.clock, ground.connection
    verifier = Verifier(
        ground.trust,
        NatsBucket(connection, topology.IDENTITIES),
        clock,
        accept_unsigned=config.accept_unsigned,
    )
    log = NatsEventLog(connection)
    replica = Replica(verifier, log, NatsBucket(connection, topology.REGISTRY), clock)
    saver = Saver(config.mesh, replica, store, clock)
    await saver.load()
    outbox = Outbox(store, log, clock)
    for entry in await store.outbox(_OUTBOX_LOADED_MAX):
        replica.apply_own(entry.sealed)
        outbox.put(entry)
    author = Author(config.node, ground.identity, store, replica, outbox, clock)
    await author.begin()
    registrations = Registrations(author, replica, log, clock, host=ground.host, mode=config.mode)
    registrations.restore(await store.registrations())
    await registrations.drop_forbidden()
    return _Voice(replica, log, outbox, author, registrations, saver)


async def _assemble(
    ground: Ground, voice: _Voice, stack: AsyncExitStack, listening: _Listening, leaf: LeafNode | None
) -> _Parts:
    config, clock = ground.config, ground.clock
    replica, author, registrations = voice.replica, voice.author, voice.registrations
    link, growth = _linked(ground, replica)
    names = frozenset({config.node, ground.host, socket.gethostname().lower()})
    clones, watch = Clones(author), CertificateWatch(config, clock)
    metrics, readers = _metrics(ground, voice, watch)
    latencies = Latencies(metrics.registry)
    equipment = await equip(ground, replica)
    care = await care_for(ground, registrations, replica, names, stack, latencies.probe)
    custody = Custody(ground, replica, author, link)
    naming = naming_for(config, replica, clock, latencies.dns)
    reachability = reachability_of(ground, replica)
    containers = await containers_for(ground, registrations, metrics.registry, stack)
    watchful = (watch, care, clones, naming, reachability, containers, *((leaf,) if leaf else ()))
    warned = lambda: [line for one in watchful for line in one.warnings()]  # noqa: E731
    facts = Facts(config, link, replica, voice.outbox, warned)
    facts.reached_from = lambda: reachability.told
    reconciler = _reconciler(ground, voice, custody, link)
    historian, past_loops = history_of(ground, replica, readers, link.once_joined)
    facade = replace(
        _facade(ground, voice, names, facts.describe),
        enroller=custody.enroller,
        reporter=care.reports,
        maintainer=care.maintenance,
        metrics=metrics.render,
        observe=latencies.http,
        synchronise=reconciler.sync,
        readers=readers,
        surveyor=equipment.survey,
        historian=historian,
    )
    port = await stack.enter_async_context(
        serving(facade, config.http_host, config.http_port, exposure=_exposure(config))
    )
    custody.http_port = port
    listening(port)
    announcer = _announcer(ground, voice, port)
    custody.restate = announcer.restate
    cargo = Cargo(load=lambda: equipment.meter.load, looks=lambda: reachability.looks)
    lease = keeper_of(ground, author, replica, clones.note, latencies.lease, cargo)
    meeting = (link.tend, growth.run, reconciler.run, lease.run, reachability.looping(config.announce_s))
    watches = watching(ground, lease, author, replica, voice.log)
    micro = micro_loops(ground, registrations, care.reports, replica)
    joined = (*meeting, *_speaking(ground, voice), *custody.joined_loops, *watches, *micro)
    notifier = Notifier.of(os.environ, facts.line, clock)
    loops = (
        notifier.run,
        *equipment.loops(announcer),
        *(() if ground.server is None else (ground.server.supervise,)),
        *(leaf.loops(custody.enroller) if leaf else ()),
        *(link.run, voice.saver.run, *care.loops, containers.run, watch.run, clones.run, *custody.loops),
        *naming.loops,
        *telling(ground, port),
        *past_loops,
        *map(link.once_joined, joined),
    )
    return _Parts(announcer, voice.outbox, voice.saver, lease, notifier, loops)


def _linked(ground: Ground, replica: Replica) -> tuple[Link, Growth]:
    """Returns the way to the mesh's NATS, and what carries streams there before any are made."""
    link = Link(ground.config, ground.connection, replica, ground.identity, ground.clock)
    growth = Growth(ground, link.rejoin)
    link.before_streams = growth.carry
    return link, growth


def _facade(
    ground: Ground, voice: _Voice, names: frozenset[str], describe: Callable[[], RegistryFacts]
) -> Facade:
    """Returns what the HTTP API stands on, without the parts that look after something."""
    config, clock = ground.config, ground.clock
    return Facade(
        replica=voice.replica,
        registrar=voice.registrations,
        node=config.node,
        describe=describe,
        token=config.http_token.reveal() if config.http_token else None,
        names=names,
        clock=clock,
        local_secret=local_secret(config),
        enrols=keeps_ca(config),
        tokens_pending=lambda: ground.ledger.tokens_pending(clock.now_ms()),
        settled=lambda: voice.outbox.depth == 0,
        issued=IssuedLister(config.node, ground.ledger, clock) if keeps_ca(config) else None,
    )


def _exposure(config: Config) -> Exposure:
    """Returns how other hosts may reach the HTTP API, where its address is not loopback."""
    certificate, key = identity_files(config)
    files = TlsFiles(certificate=certificate, key=key, roots=config.tls_dir / keystore.CA_CERTIFICATE)
    return Exposure(tls=files, insecure=config.insecure_http)


def _metrics(
    ground: Ground, voice: _Voice, watch: CertificateWatch
) -> tuple[Metrics, dict[str, Callable[[], int]]]:
    """Returns what is scraped, and where those who follow changes are to be counted."""
    readers: dict[str, Callable[[], int]] = {}
    metrics = Metrics(
        voice.replica,
        ground.clock,
        node=ground.config.node,
        outbox_depth=lambda: voice.outbox.depth,
        certificates=lambda: watch.facts,
        readers=readers,
    )
    return metrics, readers


def _announcer(ground: Ground, voice: _Voice, port: int) -> Announcer:
    config = replace(ground.config, http_port=port)
    made = Announcer(config, voice.author, voice.registrations, voice.replica, voice.log, ground.clock)
    made.addresses = ground.advertised.addresses
    return made


def _reconciler(ground: Ground, voice: _Voice, custody: Custody, link: Link) -> Reconciler:
    charge = Charge(
        node=ground.config.node,
        interval_s=ground.config.reconcile_s,
        restate=lambda: custody.restate(),  # noqa: PLW0108 - it is set once there is an announcer
        waiting=lambda: voice.outbox.depth,
        begun_anew=link.begun_anew,
        begin_anew=link.begin_anew,
    )
    bucket = NatsBucket(ground.connection, topology.REGISTRY)
    return Reconciler(charge, voice.registrations, voice.replica, voice.log, bucket, ground.clock)


def _speaking(ground: Ground, voice: _Voice) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """Returns what brings this node's words, and others', to where they belong."""
    config, connection, replica = ground.config, ground.connection, voice.replica
    bucket = NatsBucket(connection, topology.REGISTRY)
    materialiser = Materialiser(NatsWorkQueue(connection), bucket, replica, ground.clock)
    bridge = Bridge(connection, voice.log, replica, voice.registrations, ground.clock)
    return (
        voice.outbox.run,
        voice.outbox.forget_sent,
        materialiser.run,
        ApplicationStreams(config, connection, ground.clock).run,
        *((bridge.listen,) if config.accept_unsigned else ()),
        *((bridge.speak,) if config.bridge_announce else ()),
    )


async def _run(parts: _Parts, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop(), name=loop.__qualname__) for loop in parts.loops]
        announcing = group.create_task(parts.announcer.run(), name="announcer")
        await stop.wait()
        parts.notifier.stopping()
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
        await parts.saver.save(last=True)
    except TimeoutError:
        _log.warning("left without the log's word; it is told at the next start")
    except (StoreError, CapacityError) as error:
        _log.warning("left without a last word", detail=str(error))
    await parts.lease.release()
