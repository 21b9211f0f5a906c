"""The link: brings the replica to the mesh's stream, and back to it after every loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, Final

import structlog

from pmoves_mesh.agent.trust.trusted import identity_files, keeps_ca
from pmoves_mesh.config import Config
from pmoves_mesh.core import records
from pmoves_mesh.core.names import JETSTREAM_API, MESH_API, inbox_prefix
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import LogError, LogUnavailable, SequenceConflict, SequenceGap
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.endings import CLIENT_NAME
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock, LogBounds
from pmoves_mesh.replica import Repair, Replica
from pmoves_mesh.views.rebuild import settle

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 0.1
_REFUSED_RETRY_S: Final = 5.0
_TEND_RETRY_S: Final = 1.0
_FIRST_S: Final = 3.0


def nats_settings(config: Config) -> NatsSettings:
    """Returns how to reach the mesh's NATS: by TLS with this node's identity, if no other login is set."""
    if config.mesh_tls:
        certificate, key = identity_files(config)
        return NatsSettings(
            servers=config.nats_servers,
            name=f"{CLIENT_NAME}{config.node}",
            tls_ca=config.tls_dir / keystore.CA_CERTIFICATE,
            tls_cert=certificate,
            tls_key=key,
            tls_server=config.mesh,
            inbox_prefix=inbox_prefix("node", config.node),
            api_prefix=JETSTREAM_API if keeps_ca(config) else MESH_API,
        )
    return NatsSettings(
        servers=config.nats_servers,
        name=f"{CLIENT_NAME}{config.node}",
        user=config.nats_user,
        password=config.nats_password.reveal() if config.nats_password else None,
        token=config.nats_token.reveal() if config.nats_token else None,
        creds_path=config.nats_creds,
        nkey_seed_path=config.nats_nkey_seed,
        tls_ca=config.nats_tls_ca,
        tls_cert=config.nats_tls_cert,
        tls_key=config.nats_tls_key,
    )


class Link:
    """Joins the mesh and follows its stream.

    Attributes:
        connection: to the mesh's NATS.
        identity: who this node is.
        problem: what keeps this node from the mesh now; empty if nothing does.
        incident: what last befell the stream, and when; empty if nothing did.
        begun_anew: set whenever this replica began anew; whoever waits for it clears it.
    """

    def __init__(
        self, config: Config, connection: Connection, replica: Replica, identity: Identity, clock: Clock
    ) -> None:
        self.problem = ""
        self.incident = ""
        self.begun_anew: Final = asyncio.Event()
        self._broken_off = False
        self._config = config
        self.connection: Final = connection
        self._replica = replica
        self.identity = identity
        self._clock = clock
        self._identities = NatsBucket(connection, topology.IDENTITIES)
        self._registry = NatsBucket(connection, topology.REGISTRY)
        self._log = NatsEventLog(connection)
        self._queue = NatsWorkQueue(connection)
        self._joined = asyncio.Event()

    def once_joined(
        self, loop: Callable[[], Coroutine[Any, Any, None]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """Returns `loop`, made to begin only once this node has joined the mesh.

        Before that nobody could verify its events, and the stream may even be another mesh's.
        """

        @wraps(loop)
        async def begin() -> None:
            await self._joined.wait()
            await loop()

        return begin

    async def run(self) -> None:
        """Follows the stream for ever.

        Raises:
            LogError: if this node cannot join and never did: what is wrong needs a person.
        """
        if not self._may_wait():
            await self._first_session()
        while True:
            await self.connection.next_session()
            try:
                await self._join()
                self.problem = ""
                self._joined.set()
                await self._replica.run()
            except LogUnavailable as error:
                self.problem = str(error)
                await self._clock.sleep(_RETRY_S)
            except SequenceGap as error:
                _log.warning("the stream does not continue this replica", detail=str(error))
                self._broken_off = True
            except LogError as error:
                if not self._may_wait():
                    raise
                self.problem = str(error)
                _log.warning("not joined; trying again", detail=str(error), after_s=_REFUSED_RETRY_S)
                await self._clock.sleep(_REFUSED_RETRY_S)

    async def tend(self) -> None:
        """Makes the bucket of leases anew after each restart of the server, for ever.

        Nothing else: the replica sees that the stream was lost by its absence.
        """
        while True:
            session = await self.connection.next_session()
            try:
                trust = self._replica.verifier.trust
                known = (*trust.root_fingerprints, *trust.retired)
                await topology.ensure_leases(self.connection, self._config.mesh, known)
            except LogError as error:
                _log.debug("leases not ensured; trying again", detail=str(error))
                await self._clock.sleep(_TEND_RETRY_S)
            else:
                await session.lost.wait()

    def _may_wait(self) -> bool:
        """Returns whether this node was in the mesh before, and so has something to serve meanwhile."""
        return self._replica.stream_id != ""

    async def _first_session(self) -> None:
        """Lets a refused login end the first start; a server that is merely away is waited for."""
        try:
            await self.connection.wait_connected(_FIRST_S)
        except LogUnavailable as error:
            self.problem = str(error)
            _log.warning("NATS is away; serving what is registered here", detail=str(error))

    async def _join(self) -> None:
        """Makes sure that stream and buckets are there, shows our certificate, chooses where to begin."""
        replica = self._replica
        bounds = await self._ensure()
        await self.show(self.identity)
        other = replica.stream_id != bounds.stream_id or replica.position > bounds.last
        truncated = replica.position + 1 < bounds.first
        if not replica.stream_id:
            await self._boot(bounds)
        elif other or (self._broken_off and not truncated):
            await self._begin_anew(bounds)
        elif truncated:
            self._report("truncated", f"the stream begins at {bounds.first}, after {replica.position}")
            await self._boot(bounds, dict(replica.registry.decrees))
            self.begun_anew.set()
        self._broken_off = False
        replica.stream_id = bounds.stream_id

    async def _begin_anew(self, bounds: LogBounds) -> None:
        """Leaves the history that is no more, but for what operators decreed in it."""
        decrees = self._replica.registry.decrees
        self._report("replaced", f"the stream was made anew or restored; it ends at {bounds.last}")
        carried = {
            key: records.encode(records.of_before(records.decode(value))) for key, value in decrees.items()
        }
        await settle(self._log, self._registry, every=True)
        for key, value in carried.items():
            await self._restate(key, records.decode(value))
        await self._boot(bounds, carried)
        self.begun_anew.set()

    async def _restate(self, key: str, carried: records.Record) -> None:
        """Puts a decree into the bucket, if that lacks it: newcomers learn it from there."""
        entry = await self._registry.get(key)
        held = records.readable(entry.value) if entry else None
        fresh = records.merged(held, carried)
        if fresh is not None:
            with suppress(SequenceConflict):  # another agent carries the same
                await self._registry.put(key, records.encode(fresh), expected=entry.revision if entry else 0)

    def _report(self, kind: Repair, what: str) -> None:
        self._replica.repairs[kind] += 1
        self.incident = f"{iso(self._clock.now_ms())}: {what}; this replica began anew from the bucket"
        _log.warning("the stream is not what it was", kind=kind, detail=what)

    async def _ensure(self) -> LogBounds:
        config, trust = self._config, self._replica.verifier.trust
        return await topology.ensure(
            self.connection,
            config.mesh,
            (*trust.root_fingerprints, *trust.retired),
            max_age_s=config.stream_max_age_s,
            max_bytes=config.stream_max_bytes,
        )

    async def _boot(self, bounds: LogBounds, carried: Mapping[str, bytes] | None = None) -> None:
        await settle(self._log, self._registry)
        floor = min(await self._queue.floor(), bounds.last)
        keys = await self._replica.restore_from_bucket(floor, carried)
        if floor + 1 < bounds.first:
            _log.warning("events are gone that the bucket lacks", held=floor, first=bounds.first)
        _log.info("booted from the bucket", keys=keys, position=floor)

    async def rejoin(self) -> None:
        """Brings what the stream says of the mesh's CA up to date, as after a rotation.

        Raises:
            LogError: if the log cannot be reached, or is another mesh's.
        """
        await self._ensure()

    async def show(self, identity: Identity) -> None:
        """Lets the mesh see a certificate of this node.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        name = identity.fingerprint
        if await self._identities.get(name) is None:
            try:
                await self._identities.put(name, identity.certificate_der, expected=0)
            except SequenceConflict:
                _log.debug("certificate already shown by another run", fingerprint=name)
