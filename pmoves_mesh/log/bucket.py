"""A key-value bucket on JetStream: the last message per subject, with compare-and-set.

Source: NATS ADR-8 (key-value), ADR-31 (direct get), ADR-43 (per-message TTL), ADR-48 (its markers).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

from pmoves_mesh.core.names import bucket_stream
from pmoves_mesh.errors import LogUnavailable, SequenceConflict
from pmoves_mesh.log import api
from pmoves_mesh.log.api import PREFIX, Refused
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import push_consumer
from pmoves_mesh.log.headers import status
from pmoves_mesh.ports import BucketEntry

_OPERATION: Final = "KV-Operation"
_MARKER: Final = "Nats-Marker-Reason"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_DELETED_TTL: Final = "1h"
_BATCH_MAX: Final = 1000


class NatsBucket:
    """One bucket; implements `ports.Bucket`. Methods raise `LogUnavailable` if it cannot be reached."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._stream = bucket_stream(name)
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> BucketEntry | None:
        """Returns the latest value of a key, or None if it has none."""
        held = await self._last(key)
        return held if isinstance(held, BucketEntry) else None

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: int | None = None
    ) -> int:
        """Writes a key and returns its new revision; see `ports.Bucket.put`.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        headers = {} if ttl_s is None else {"Nats-TTL": f"{ttl_s}s"}
        if expected is None:
            return await self._write(key, value, headers)
        try:
            return await self._write(key, value, {**headers, _EXPECTED: str(expected)})
        except SequenceConflict:
            held = await self._last(key) if expected == 0 else None
            if not isinstance(held, int) or held == 0:
                raise
            # The key has no value but a marker of its removal, and that marker's revision counts.
            return await self._write(key, value, {**headers, _EXPECTED: str(held)})

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Removes a key, if it is there; a marker of that stays for an hour.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        headers = {_OPERATION: "DEL", "Nats-TTL": _DELETED_TTL}
        if expected is not None:
            await self._write(key, b"", {**headers, _EXPECTED: str(expected)})
        elif await self.get(key) is not None:
            await self._write(key, b"", headers)

    async def keys(self, pattern: str = ">") -> list[str]:
        """Returns the keys that match a NATS subject pattern."""
        return [entry.key async for entry in self._scan(pattern, headers_only=True)]

    def load(self, pattern: str = ">") -> AsyncIterator[BucketEntry]:
        """Yields the latest value of every key that matches `pattern`, once, then ends."""
        return self._scan(pattern, headers_only=False)

    async def _last(self, key: str) -> BucketEntry | int:
        """Returns a key's value, or the revision of the marker that it has none, or 0."""
        subject = f"{PREFIX}DIRECT.GET.{self._stream}.{self._prefix}{key}"
        message = await self._connection.session().request(subject)
        code = status(message)
        if code == 404:
            return 0
        headers = message.headers or {}
        if code or "Nats-Sequence" not in headers:
            raise LogUnavailable(f"bucket {self._name} does not answer (status {code})")
        revision = int(headers["Nats-Sequence"])
        if _is_marker(headers):
            return revision
        return BucketEntry(key=key, value=message.data, revision=revision)

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        try:
            return await api.publish(self._connection.session(), self._prefix + key, value, headers)
        except Refused as error:
            if error.err_code not in api.WRONG_LAST_SEQUENCE:
                raise
            raise SequenceConflict(key, int(headers.get(_EXPECTED, "0"))) from None

    async def _scan(self, pattern: str, *, headers_only: bool) -> AsyncIterator[BucketEntry]:
        """Yields the keys that have a value, through a consumer that begins with the last per subject."""
        config = {
            "deliver_policy": "last_per_subject",
            "filter_subject": self._prefix + pattern,
            "headers_only": headers_only,
        }
        begin, seen = len(self._prefix), set()
        async with push_consumer(self._connection.session(), self._stream, config) as consumer:
            while consumer.pending:
                for message, delivery in await consumer.take(_BATCH_MAX):
                    key = message.subject[begin:]
                    # A key that is written during the scan comes once more.
                    if key in seen or (message.headers is not None and _is_marker(message.headers)):
                        continue
                    seen.add(key)
                    yield BucketEntry(key=key, value=message.data, revision=delivery.position)


def _is_marker(headers: Mapping[str, str]) -> bool:
    return headers.get(_OPERATION) in {"DEL", "PURGE"} or _MARKER in headers
