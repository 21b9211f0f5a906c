"""The markers that the server leaves where a lease ran out, each handed to one agent.

They come through a durable pull consumer of the leases' stream, which hands out refreshes too: NATS cannot
tell them apart by subject. A refresh is acknowledged at once, with nothing but its headers ever sent.

Source: NATS ADR-48 (markers of expired keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pmoves_mesh.core.names import bucket_stream
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.queue import NatsDelivery, NatsWorkQueue
from pmoves_mesh.log.topology import LEASES, WITNESS

_BATCH_MAX: Final = 8
_PREFIX: Final = f"$KV.{LEASES}."
_REASON: Final = "Nats-Marker-Reason"
_RAN_OUT: Final = "MaxAge"


class NatsMarker:
    """A lease that ran out; implements `ports.Marker`."""

    def __init__(self, delivery: NatsDelivery) -> None:
        self.node: Final = delivery.message.sealed.subject.removeprefix(_PREFIX)
        self._delivery = delivery

    async def ack(self) -> None:
        """Says that it was judged; without it the marker is handed out again."""
        await self._delivery.ack()

    async def working(self) -> None:
        """Says that it is being judged; to be repeated every second."""
        await self._delivery.working()


class NatsMarkers:
    """The durable consumer `witness`; implements `ports.Markers`, for one agent."""

    def __init__(self, connection: Connection) -> None:
        self._queue = NatsWorkQueue(connection, bucket_stream(LEASES), WITNESS)

    async def fetch(self, timeout_s: float) -> Sequence[NatsMarker]:
        """Returns the next markers, or none if there are none within `timeout_s`.

        Raises:
            LogUnavailable: if the log cannot be reached, or the consumer is gone.
            RightMissing: if this user may not fetch.
        """
        markers = []
        for delivery in await self._queue.fetch(_BATCH_MAX, timeout_s):
            if delivery.message.sealed.headers.get(_REASON) == _RAN_OUT:
                markers.append(NatsMarker(delivery))
            else:
                await delivery.ack()
        return markers
