"""Following the mesh's stream itself: a replica within the program, which verifies every event.

It asks no agent, and believes none: its directory holds what the mesh's CA vouches for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import instance_view
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing, SequenceGap
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import instance_of
from pmoves_mesh.subscribers import Applied
from pmoves_mesh.verifier import Verifier

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 0.5
_CURRENT_S: Final = 60.0


class StreamSource:
    """Follows the stream; implements `directory.Source`."""

    def __init__(
        self, connection: Connection, trust: Trust, directory: Directory, clock: Clock, *, unsigned: bool
    ) -> None:
        self._problem = "the stream was not read yet"
        self.anew = asyncio.Event()
        self._connection = connection
        self._directory = directory
        self._clock = clock
        self._log = NatsEventLog(connection)
        self._queue = NatsWorkQueue(connection)
        self._bucket = NatsBucket(connection, topology.REGISTRY)
        identities = NatsBucket(connection, topology.IDENTITIES)
        verifier = Verifier(trust, identities, clock, accept_unsigned=unsigned)
        self.replica: Final = Replica(verifier, self._log, self._bucket, clock)

    @property
    def problem(self) -> str:
        """Why the stream is not followed now; empty while it is."""
        if self._problem or self._connection.connected:
            return self._problem
        return str(self._connection.problem or "NATS is away")

    async def run(self) -> None:
        """Keeps the directory in step with the stream, for ever."""
        while True:
            await self._connection.next_session()
            try:
                await self._boot()
                with self.replica.subscribed(self._notice):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._show(), name="show-replica")
                        await self.replica.run()
            except* LogError as errors:
                self._note(errors.exceptions[0])
            await self._clock.sleep(_RETRY_S)

    async def check_rights(self) -> None:
        """Checks that this identity may read the stream.

        Raises:
            RightMissing: if it may not, as a service of a secured mesh.
            LogError: if there is no such mesh.
        """
        try:
            await self._log.bounds()
        except RightMissing:
            # What JetStream answers may not reach a service of a secured mesh: see docs/adr/0034.
            right = f"the stream of a mesh at {self._connection.server_url}, which this identity may not read"
            raise RightMissing(right, "ask an agent instead: leave out `nats`") from None

    async def _boot(self) -> None:
        """Takes the registry from the bucket where there is nothing yet, or where the stream is another."""
        bounds = await self._log.bounds()
        replica = self.replica
        known = replica.stream_id == bounds.stream_id and bounds.first - 1 <= replica.position <= bounds.last
        if known:
            return
        await replica.restore_from_bucket(min(await self._floor(bounds.first), bounds.last))
        replica.stream_id = bounds.stream_id

    async def _floor(self, first: int) -> int:
        """Returns up to which position the bucket is complete.

        Whoever may not ask reads the stream from its beginning, before which there is nothing but the bucket.
        """
        try:
            return await self._queue.floor()
        except RightMissing:
            return first - 1

    async def _show(self) -> None:
        """Shows the directory all that the replica holds, once it holds what the stream does."""
        while not await self.replica.wait_current(_CURRENT_S):
            _log.info("still reading the stream", position=self.replica.position)
        registry = self.replica.registry
        listed = [
            instance_of(instance_view(registry, entry))
            for entry in registry.entries()
            if registry.is_listed(entry)
        ]
        self._problem = ""
        self._directory.replace(listed, self.replica.position)
        self.anew.set()

    def _notice(self, applied: Applied) -> None:
        if not self._problem:
            self._update(applied.change.instances, applied.position)

    def _update(self, keys: Iterable[InstanceKey], position: int) -> None:
        registry = self.replica.registry
        for key in keys:
            entry = registry.entry(key)
            if entry is None or not registry.is_listed(entry):
                self._directory.drop(key, position)
            else:
                self._directory.put(instance_of(instance_view(registry, entry)), position)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, SequenceGap):
            self.replica.stream_id = ""
        if str(error) != self._problem:
            level = _log.info if isinstance(error, LogUnavailable) else _log.warning
            level("the stream is not followed; answering from memory", detail=str(error))
        self._problem = str(error) or "the stream is away"
