"""The link: this node's way to the mesh's NATS, over which its replica follows the stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import structlog

from pmoves_mesh.agent.follower import Follower, Upstream
from pmoves_mesh.agent.trust.trusted import identity_files, keeps_ca
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import JETSTREAM_API, MESH_API, inbox_prefix
from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.endings import CLIENT_NAME
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock, LogBounds
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

_TEND_RETRY_S: Final = 1.0
_TEND_EVERY_S: Final = 10.0
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
            ordered=config.nats_cluster != (),
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
        begun_anew: set whenever the replica began anew; whoever waits for it clears it.
        begin_anew: makes the replica anew, and returns when it follows the stream again.
        before_streams: what is to be done before streams are made; nothing, unless it is set.
    """

    def __init__(
        self, config: Config, connection: Connection, replica: Replica, identity: Identity, clock: Clock
    ) -> None:
        self.connection: Final = connection
        self.identity = identity
        self.before_streams: Callable[[], Awaitable[None]] = _nothing
        self._config = config
        self._replica = replica
        self._clock = clock
        upstream = Upstream(
            connected=connection.next_session,
            ensure=self._ensure,
            log=NatsEventLog(connection),
            registry=NatsBucket(connection, topology.REGISTRY),
            identities=NatsBucket(connection, topology.IDENTITIES),
            queue=NatsWorkQueue(connection),
        )
        # The host of the CA makes the streams, and shows this node's certificate.
        patient = config.nats_cluster != () and not keeps_ca(config)
        self._follower = Follower(upstream, replica, lambda: self.identity, clock, patient=patient)
        self.begun_anew: Final = self._follower.begun_anew
        self.begin_anew: Final = self._follower.begin_anew

    @property
    def problem(self) -> str:
        """What keeps this node from the mesh now; empty if nothing does."""
        return self._follower.problem

    @property
    def incident(self) -> str:
        """What last befell the stream, and when; empty if nothing did."""
        return self._follower.incident

    def once_joined(
        self, loop: Callable[[], Coroutine[Any, Any, None]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """Returns `loop`, made to begin only once this node has joined the mesh."""
        return self._follower.once_joined(loop)

    async def run(self) -> None:
        """Follows the stream for ever.

        Raises:
            LogError: if this node cannot join and never did: what is wrong needs a person.
        """
        if not self._follower.may_wait:
            await self._first_session()
        await self._follower.run()

    async def tend(self) -> None:
        """Makes the bucket of leases anew after each restart of the server, for ever.

        Whoever may make it also looks every now and then whether it is still of use: on several servers
        it may be lost while this node's own one stays.

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
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TEND_EVERY_S if keeps_ca(self._config) else None):
                        await session.lost.wait()

    async def _first_session(self) -> None:
        """Lets a refused login end the first start; a server that is merely away is waited for."""
        try:
            await self.connection.wait_connected(_FIRST_S)
        except LogUnavailable as error:
            self._follower.problem = str(error)
            _log.warning("NATS is away; serving what is registered here", detail=str(error))

    async def _ensure(self) -> LogBounds:
        config, trust = self._config, self._replica.verifier.trust
        await self.before_streams()
        return await topology.ensure(
            self.connection,
            config.mesh,
            (*trust.root_fingerprints, *trust.retired),
            max_age_s=config.stream_max_age_s,
            max_bytes=config.stream_max_bytes,
        )

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
        await self._follower.show(identity)


async def _nothing() -> None:
    pass
