"""The survey: how loaded other nodes are, whom they reach, and how far away they are, for those who ask.

Loads, and what came of trying to reach others, stand in the leases of the nodes, each signed by its
node; far away is what takes a TCP connection to a node's agent long to be made, or to be refused. All
of it is read on demand: see `readings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from pmoves_mesh.agent.health.reach import addresses, allowed_socket
from pmoves_mesh.agent.resources.meter import Meter
from pmoves_mesh.agent.resources.readings import Readings, Terms
from pmoves_mesh.core import lease
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.core.load import Load, LoadView
from pmoves_mesh.errors import RemoteProtocolError
from pmoves_mesh.ports import Bucket, Clock
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

_LOADS_WAIT_S: Final = 0.3
_ROUND_TRIPS: Final = Terms(fresh_s=30.0, kept_s=120.0, wait_s=0.6)
_MEASURE_S: Final = 0.5
_TRIES: Final = 3
_READS_PER_TTL: Final = 3


class Survey:
    """Surveys the nodes of a mesh; implements `ports.Surveyor`."""

    def __init__(self, node: str, meter: Meter, replica: Replica, leases: Bucket, clock: Clock) -> None:
        """Takes what it needs.

        Args:
            node: this one, which needs no lease to be known.
            meter: its load.
            replica: the other nodes, and whom this one believes.
            leases: of all nodes.
            clock: the time.
        """
        self._node = node
        self._meter = meter
        self._replica = replica
        self._leases = leases
        self._clock = clock
        ttl_s = meter.ttl_s
        # A lease that is there was written within its time, and is gone after it. What was read that long
        # ago may be of a node that is gone.
        terms = Terms(fresh_s=ttl_s / _READS_PER_TTL, kept_s=ttl_s, wait_s=_LOADS_WAIT_S)
        self._read: Readings[Lease] = Readings(self._read_leases, clock, terms)
        self._round_trips: Readings[float] = Readings(self._measure, clock, _ROUND_TRIPS)

    async def run(self) -> None:
        """Reads what is asked for, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read.run())
            group.create_task(self._round_trips.run())

    async def loads(self, nodes: Collection[str]) -> dict[str, LoadView]:
        """Returns the load of each node that tells it, within 0.3 s."""
        readings = await self._read.of([node for node in nodes if node != self._node])
        found = {
            node: self._view(load, reading.age_s)
            for node, reading in readings.items()
            if (load := reading.value.load) is not None
        }
        if self._node in nodes and (own := self._meter.load) is not None:
            found[self._node] = self._view(own, self._meter.age_s)
        return found

    async def looks(self, node: str) -> dict[str, str] | None:
        """Returns whom a node tried to reach lately, and with what result, within 0.3 s."""
        reading = (await self._read.of([node])).get(node)
        return None if reading is None else {name: look.problem for name, look in reading.value.looks.items()}

    async def round_trips_ms(self, nodes: Collection[str]) -> dict[str, float]:
        """Returns the milliseconds to each node that answers, and back, within 0.6 s."""
        readings = await self._round_trips.of([node for node in nodes if node != self._node])
        found = {node: reading.value for node, reading in readings.items()}
        return found | ({self._node: 0.0} if self._node in nodes else {})

    def _view(self, load: Load, age_s: float) -> LoadView:
        stale = age_s > self._meter.ttl_s
        return LoadView(cpu=load.cpu, memory=load.memory, gpu=load.gpu, age_s=round(age_s, 1), stale=stale)

    async def _read_leases(self, nodes: Sequence[str]) -> Mapping[str, Lease]:
        found = await asyncio.gather(*map(self._read_lease, nodes))
        return {node: held for node, held in zip(nodes, found, strict=True) if held is not None}

    async def _read_lease(self, node: str) -> Lease | None:
        entry = await self._leases.get(node)
        if entry is None:
            return None
        try:
            trust = self._replica.verifier.trust
            return lease.unseal(entry.value, node, trust, self._clock.now_ms())
        except RemoteProtocolError as error:
            _log.debug("lease not believed", node=node, detail=str(error))
            return None

    async def _measure(self, nodes: Sequence[str]) -> Mapping[str, float]:
        found = await asyncio.gather(*map(self._measure_one, nodes))
        return {node: taken for node, taken in zip(nodes, found, strict=True) if taken is not None}

    async def _measure_one(self, node: str) -> float | None:
        entry = self._replica.registry.nodes.get(node)
        announced = entry.announced if entry else None
        if announced is None or not announced.port:
            return None
        try:
            async with asyncio.timeout(_MEASURE_S):
                return await round_trip_ms(announced.host, announced.port, self._clock)
        except (TimeoutError, OSError) as error:
            _log.debug("no way to a node was measured", node=node, detail=str(error))
            return None


async def round_trip_ms(host: str, port: int, clock: Clock) -> float:
    """Returns the milliseconds to a host and back: the least of three, whether it takes a connection or not.

    Raises:
        OSError: if the host does not answer, or may not be asked.

    Source: RFC 9293 section 3.5: SYN is answered by SYN-ACK, or by RST, in one round trip.
    """
    loop = asyncio.get_running_loop()
    info = (await addresses(host, port))[0]
    taken = []
    for _ in range(_TRIES):
        with allowed_socket(info) as connection:
            connection.setblocking(False)
            began_s = clock.monotonic_s()
            with suppress(ConnectionRefusedError):  # which is as good an answer as any
                await loop.sock_connect(connection, info[4])
            taken.append(clock.monotonic_s() - began_s)
    return round(min(taken) * 1000, 3)
