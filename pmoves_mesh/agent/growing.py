"""A mesh that grows from one nats-server to several, without losing an event.

A server that comes to be one of a cluster removes the streams that it held alone. So they were set
aside when it started, and the node that may make streams carries them over before anybody makes them
anew: from a server that runs for this alone, on loopback, and lets this node in and nobody else. What
was set aside stays until each stream is whole on as many servers as wanted, and says after every
crash what is still to be done.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.trusted import identity_files, keeps_ca
from pmoves_mesh.core.application import KINDS
from pmoves_mesh.core.names import (
    CHECKPOINTS,
    EVENTS,
    IDENTITIES,
    LEASES,
    REGISTRY,
    bucket_stream,
    object_stream,
)
from pmoves_mesh.errors import LogError, LogUnavailable, MeshError
from pmoves_mesh.log import application, moving, replication
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.session import Session
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.process import EmbeddedServer, Secured
from pmoves_mesh.server.settings import HOST, ServerFiles

_CONNECT_S: Final = 10.0
_LOOK_EVERY_S: Final = 5.0

_OURS: Final = (
    *(bucket_stream(REGISTRY), bucket_stream(IDENTITIES)),
    object_stream(CHECKPOINTS),
    *(kind.stream for kind in KINDS),
    EVENTS,  # the last: until it is there, no agent goes on
)

_log: Final = structlog.get_logger(__name__)


class Growth:
    """Carries what this host held alone into the cluster, and sees to it that all of it is kept thrice."""

    def __init__(self, ground: Ground, ensure: Callable[[], Awaitable[None]]) -> None:
        """Takes what the agent stands on, and what updates the mesh's own streams."""
        self._ground = ground
        self._ensure = ensure
        self._files = ServerFiles(ground.config.data_dir.absolute() / "nats")
        self._carried = False

    @property
    def pending(self) -> bool:
        """Whether there are streams that this host held alone, and is to carry over."""
        config = self._ground.config
        return bool(config.nats_cluster) and keeps_ca(config) and self._files.growing.streams.is_dir()

    async def carry(self) -> None:
        """Carries over what is not there yet; does nothing where nothing is to be carried.

        Raises:
            LogUnavailable: if it is to be tried again, as while most servers are away.
            LogError: if the cluster holds other streams of the same names.
        """
        if self._carried or not self.pending:
            return
        target = self._ground.connection.session()
        await moving.names(target)  # answers once most servers are there
        try:
            async with self._alone() as source:
                await self._carry_all(source, target)
        except LogError:
            raise
        except MeshError as error:
            raise LogUnavailable(f"the streams that this host held alone cannot be read: {error}") from None
        self._carried = True

    async def run(self) -> None:
        """Has all streams kept on as many servers as wanted, then removes what was set aside."""
        ground = self._ground
        if not (ground.config.nats_cluster and keeps_ca(ground.config)):
            return
        while True:
            session = await ground.connection.next_session()
            try:
                if await self._is_whole(session):
                    await asyncio.to_thread(self._clear)
                    await session.lost.wait()
                    continue
                await self._ensure()
                await application.ensure(ground.connection, ground.config.mesh, ground.config.events)
            except LogError as error:
                _log.debug("the streams are not on all servers yet", detail=str(error))
            await ground.clock.sleep(_LOOK_EVERY_S)

    async def _is_whole(self, session: Session) -> bool:
        there = await moving.names(session)
        ours = [stream for stream in (*_OURS, bucket_stream(LEASES)) if stream in there]
        return bool(ours) and all([await replication.is_whole(session, stream) for stream in ours])

    async def _carry_all(self, source: Session, target: Session) -> None:
        held = await moving.names(source)
        for stream in (one for one in _OURS if one in held):
            if await moving.is_carried(source, target, stream):
                continue
            info = await moving.carry(source, target, stream)
            _log.info("stream carried into the cluster", stream=stream, last=info.state.last_seq)

    def _clear(self) -> None:
        """Removes what was set aside, once it was carried over, unless there is more than this mesh's."""
        aside = self._files.growing
        if not self._carried or not aside.streams.is_dir():
            return
        others = [path.name for path in aside.streams.glob("jetstream/*/streams/*") if path.name not in _OURS]
        if others:
            _log.warning("streams of another making stay set aside", path=str(aside.streams), streams=others)
            return
        shutil.rmtree(aside.directory.parent, ignore_errors=True)
        _log.info("the mesh's streams are on all servers of the cluster", set_aside="removed")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Session]:
        """Gives a session with a server of what was set aside, which lets in this node alone."""
        ground = self._ground
        certificate, key = identity_files(ground.config)
        port = await asyncio.to_thread(_free_port)
        secured = Secured(
            host=HOST,
            mesh=ground.config.mesh,
            certificate=certificate,
            key=key,
            access=_only_own(ground.access(())),
        )
        directory = self._files.growing.directory.parent
        server = EmbeddedServer(locate(os.environ), directory, port, ground.clock, secured)
        await server.start()
        try:
            settings = replace(nats_settings(ground.config), servers=(server.url,))
            async with Connection(settings) as connection:
                await connection.wait_connected(_CONNECT_S)
                yield connection.session()
        finally:
            await server.stop()


def _only_own(access: Access) -> Access:
    own = tuple(member for member in access.members if member.identity == access.owner)
    return msgspec.structs.replace(access, members=own)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
