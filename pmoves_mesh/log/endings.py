"""Connections that end, as the server tells it: within a moment of a process's death, whatever its lease.

A secured server exports its system account's disconnect advisories to the mesh. One that does not is
made to tell the same by another way: each connection has a consumer that delivers to it and never has
anything to deliver. Once the connection is gone nobody listens there; the server removes the consumer
a second later, and says so in the account itself.

Source: docs.nats.io, "System Events", "Consumers" (inactive_threshold), "JetStream Advisories".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.names import bucket_stream
from pmoves_mesh.core.witness import BROKEN_S
from pmoves_mesh.errors import LogUnavailable, RightMissing
from pmoves_mesh.log.api import STREAM_NOT_FOUND, ConsumerInfo, Refused, call
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.topology import LEASES

CLIENT_NAME: Final = "pmoves-mesh "
"""What an agent's connections are called, before the node's name."""

_STREAM: Final = bucket_stream(LEASES)
_REMOVED: Final = f"$JS.EVENT.ADVISORY.CONSUMER.DELETED.{_STREAM}."
_NAME_ENDS: Final = "_"
"""Between the node's name, which cannot have it, and the connection's."""

_NANO: Final = 10**9


class Ending(Struct, frozen=True):
    """A connection ended.

    Attributes:
        node: whose it was, as it said itself.
        connection: as `Connection.id` has it.
        ended_s: how many seconds ago.
    """

    node: str
    connection: str
    ended_s: float


class _Party(Struct, frozen=True):
    id: str | int = ""
    name: str = ""


class _Advisory(Struct, frozen=True):
    server: _Party = _Party()
    client: _Party = _Party()


_ADVISORY: Final = msgspec.json.Decoder(_Advisory)


class NatsEndings:
    """The connections of this node that end, and of all others.

    Args:
        connection: this node's.
        node: its name.
        subjects: where the server tells of clients that are gone; empty where it does not.
    """

    def __init__(self, connection: Connection, node: str, subjects: tuple[str, ...] = ()) -> None:
        self._connection = connection
        self._node = node
        self.subjects: Final = subjects or (f"{_REMOVED}*",)
        self._shown = not subjects

    async def follow(self, session: Session) -> None:
        """Lets the server tell of a session's end, and returns when it has ended.

        Raises:
            LogUnavailable: if there are no leases yet, as just after a restart of the server.
            LogError: if the server does not let this node; then its lease alone tells of its end.
        """
        if not self._shown:
            await session.lost.wait()
            return
        async with await session.subscribe() as inbox:
            name = f"{self._node}{_NAME_ENDS}{session.id}"
            config = {
                "name": name,
                "deliver_subject": inbox.subject,
                "deliver_policy": "new",
                "ack_policy": "none",
                "filter_subject": f"$KV.{LEASES}.{self._node}.none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": int(BROKEN_S * _NANO),
            }
            body = {"stream_name": _STREAM, "config": config}
            try:
                await call(session, f"CONSUMER.CREATE.{_STREAM}.{name}", ConsumerInfo, body)
            except Refused as error:
                if error.err_code == STREAM_NOT_FOUND:
                    raise LogUnavailable(f"{_STREAM} is not there yet") from None
                raise RightMissing(f"a consumer of {_STREAM}", str(error)) from None
            await session.lost.wait()

    async def heard(self, subject: str) -> AsyncIterator[Ending]:
        """Yields what is told on one of `subjects`, without end.

        Raises:
            RightMissing: if this user may not listen there.
        """
        async for told, payload in self._connection.subscribe_core(subject):
            ending = _removed(told) if told.startswith(_REMOVED) else _disconnected(payload)
            if ending is not None:
                yield ending


def _removed(subject: str) -> Ending | None:
    node, found, connection = subject.removeprefix(_REMOVED).partition(_NAME_ENDS)
    return Ending(node, connection, BROKEN_S) if found else None


def _disconnected(payload: bytes) -> Ending | None:
    try:
        advisory = _ADVISORY.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    name = advisory.client.name
    if not name.startswith(CLIENT_NAME):
        return None
    return Ending(name.removeprefix(CLIENT_NAME), f"{advisory.server.id}-{advisory.client.id}", 0.0)
