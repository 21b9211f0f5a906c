"""The store of checkpoints: objects on JetStream, each written once, under a name that nobody can take again.

An object is its chunks on one subject and, last, its description on another. The description's subject may
have a message only once, so of several writers one is first. Removing either is a roll-up to a message that
the stream forgets a second later: so nobody needs the right to purge.

Source: NATS ADR-20 (object store), ADR-43 (per-message TTL).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.checkpoint import BYTES_MAX, Place
from pmoves_mesh.core.names import CHECKPOINTS, object_stream
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Refused
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import push_consumer

_STREAM: Final = object_stream(CHECKPOINTS)
_CHUNKS: Final = f"$O.{CHECKPOINTS}.C."
_DESCRIPTIONS: Final = f"$O.{CHECKPOINTS}.M."
_CHUNK_BYTES: Final = 128 * 1024
_BATCH_MAX: Final = 64
_BYTES_MAX: Final = 512 * 2**20
_ONCE: Final = {"Nats-Expected-Last-Subject-Sequence": "0"}
_GONE: Final = {"Nats-Rollup": "sub", "Nats-TTL": "1s"}


def configuration(max_age_s: float, max_bytes: int) -> dict[str, Any]:
    """Returns how the stream behind the store differs from that of a bucket.

    It forgets checkpoints when the events are forgotten. Objects are removed by roll-ups; whoever may write
    one could empty the store with such a header, and what was lost is made anew.

    Args:
        max_age_s: seconds after which the events are forgotten.
        max_bytes: of the events' own stream.
    """
    return {
        "name": _STREAM,
        "subjects": [f"{_CHUNKS}>", f"{_DESCRIPTIONS}>"],
        "max_msgs_per_subject": -1,
        "max_msg_size": 2 * _CHUNK_BYTES,
        "max_age": int(max_age_s * 10**9),
        "max_bytes": min(_BYTES_MAX, max_bytes),
        "discard": "old",
        "deny_purge": False,
        "allow_rollup_hdrs": True,
    }


class _Description(Struct):
    """An object's description, as every client of object stores reads it.

    Attributes:
        nuid: names its chunks.
        digest: of its bytes.
        metadata: of what it is the checkpoint; its signature alone proves that.
    """

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    metadata: dict[str, str] = {}


class NatsCheckpoints:
    """The objects of `MESH_CHECKPOINTS`; implements `replay.Checkpoints`.

    Where there is no such store, as in a mesh whose owner runs an earlier release, it is as if it were
    empty, and nothing can be kept.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[Place, _Description] = {}

    async def listed(self) -> Sequence[Place]:
        """Returns of what there are checkpoints, by their descriptions, the oldest first."""
        config = {"deliver_policy": "last_per_subject", "filter_subject": f"{_DESCRIPTIONS}>"}
        found: dict[Place, _Description] = {}
        try:
            async with push_consumer(self._connection.session(), _STREAM, config) as consumer:
                while consumer.pending:
                    for message, _ in await consumer.take(_BATCH_MAX):
                        described = _described(message.data)
                        if described is not None:
                            found[described[0]] = described[1]
        except Refused as error:
            if error.err_code != api.STREAM_NOT_FOUND:
                raise
        self._known = found
        return sorted(found)

    async def read(self, place: Place) -> bytes | None:
        """Returns the bytes of one that is listed; None if they are not what was written."""
        described = self._known.get(place)
        if described is None or not 0 < described.size <= BYTES_MAX:
            return None
        data = bytearray()
        config = {"deliver_policy": "all", "filter_subject": f"{_CHUNKS}{described.nuid}"}
        async with push_consumer(self._connection.session(), _STREAM, config) as consumer:
            while consumer.pending and len(data) < described.size:
                for message, _ in await consumer.take(_BATCH_MAX):
                    data += message.data
        del data[described.size :]  # whoever may write one could add to it
        return bytes(data) if _digest(data) == described.digest else None

    async def write(self, place: Place, data: bytes) -> bool:
        """Keeps one, unless there is one of that place already, and returns whether it did."""
        nuid = secrets.token_hex(11)
        pieces = range(0, len(data), _CHUNK_BYTES)
        described = _Description(
            name=_name(place),
            bucket=CHECKPOINTS,
            nuid=nuid,
            size=len(data),
            chunks=len(pieces),
            digest=_digest(data),
            metadata={
                "position": str(place.position),
                "time_ms": str(place.time_ms),
                "stream": place.stream_id,
            },
        )
        subject = _DESCRIPTIONS + _encoded(described.name)
        try:
            for begin in pieces:
                await self._publish(_CHUNKS + nuid, data[begin : begin + _CHUNK_BYTES], {})
            await self._publish(subject, msgspec.json.encode(described), _ONCE)
        except Refused as error:
            if error.err_code not in api.WRONG_LAST_SEQUENCE:
                raise
            await self._publish(_CHUNKS + nuid, b"", _GONE)
            return False
        self._known[place] = described
        return True

    async def delete(self, place: Place) -> None:
        """Removes one that is listed."""
        described = self._known.pop(place, None)
        if described is not None:
            await self._publish(_DESCRIPTIONS + _encoded(described.name), b"", _GONE)
            await self._publish(_CHUNKS + described.nuid, b"", _GONE)

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        await api.publish(self._connection.session(), subject, data, headers)


def _described(data: bytes) -> tuple[Place, _Description] | None:
    """Returns what a description says, or None if it is that of no checkpoint."""
    try:
        described = msgspec.json.decode(data, type=_Description)
        held = described.metadata
        place = Place(position=int(held["position"]), time_ms=int(held["time_ms"]), stream_id=held["stream"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError):
        return None
    if described.name != _name(place) or not re.fullmatch(r"[A-Za-z0-9]{1,64}", described.nuid):
        return None
    return place, described


def _name(place: Place) -> str:
    incarnation = hashlib.sha256(place.stream_id.encode()).hexdigest()[:12]
    return f"{incarnation}/{place.position}"


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _digest(data: bytes | bytearray) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
