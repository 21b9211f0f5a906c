"""Carrying a stream from one server to others, whole: its messages keep their positions and their times.

A server that comes to be one of several removes the streams that it held alone, so they are carried
over: what one server writes as a snapshot, the others read as a restore, piece by piece.

Source: NATS ADR-1 (JetStream JSON API); nats-server, `STREAM.SNAPSHOT` and `STREAM.RESTORE`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Done, Refused, StreamInfo, StreamNames, call, refusal
from pmoves_mesh.log.headers import status
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.topology import BEGUN, begun_of

_CHUNK_BYTES: Final = 512 * 1024
_WINDOW_BYTES: Final = 4 * 2**20
_PIECE_S: Final = 10.0
_END_S: Final = 60.0
_END: Final = 204
_NAMES_MAX: Final = 1024
_NAME_TAKEN: Final = 10130
_BROKEN_S: Final = 6.0
"""A restore that does not go on is given up after 5 s by the server that took it."""

_RETRY_S: Final = 0.1
_REACHED_S: Final = 5.0
"""How long it may take until all servers know where one of them takes the pieces."""

_ALIKE_S: Final = 5.0
"""Within which both servers have dropped what has reached its age."""


class _Snapshot(Struct):
    config: dict[str, Any]
    state: dict[str, Any]


class _Restore(Struct):
    deliver_subject: str


class _Taken(Struct):
    error: api.ApiFault | None = None


async def names(session: Session) -> list[str]:
    """Returns the names of all streams of an account, at most 1024.

    Raises:
        LogUnavailable: if JetStream does not answer, as while most servers of a cluster are away.
    """
    found = await call(session, "STREAM.NAMES", StreamNames, {"offset": 0})
    return sorted(found.streams or [])[:_NAMES_MAX]


async def is_carried(source: Session, target: Session, stream: str) -> bool:
    """Returns whether a stream was carried over before.

    Raises:
        LogError: if there is another of that name, or it lacks what the source holds.
    """
    held = await call(source, f"STREAM.INFO.{stream}", StreamInfo)
    found = await _found(target, stream)
    if found is None:
        return False
    if begun_of(found) != begun_of(held) or found.state.last_seq < held.state.last_seq:
        raise LogError(f"the cluster holds another stream {stream} than this host did before")
    return True


async def carry(source: Session, target: Session, stream: str) -> StreamInfo:
    """Carries a stream over, with its durable consumers, and returns it as it is there.

    It is on one server there until it is updated. It keeps the name of its incarnation, so that
    whoever follows it sees no other stream.

    Raises:
        LogUnavailable: if one side does not answer; what had begun is then no more.
        LogError: if it cannot be carried over.
    """
    held = await call(source, f"STREAM.INFO.{stream}", StreamInfo)
    async with _snapshot(source, stream) as (snapshot, pieces):
        body = {"config": _config(snapshot.config, begun_of(held)), "state": snapshot.state}
        made = await _begin(target, stream, body)
        async for piece in pieces:
            await _hand_over(target, made.deliver_subject, piece.data)
            if piece.reply:
                await source.publish(piece.reply)
        await _finish(target, made.deliver_subject)
    return await _whole(source, target, stream)


async def _whole(source: Session, target: Session, stream: str) -> StreamInfo:
    """Returns a stream that was carried over, once all of it is seen to be there; else it is removed there.

    What comes to it there meanwhile does not count.

    Raises:
        LogUnavailable: if something is missing; it is to be tried again.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + _ALIKE_S
    while True:
        held = await call(source, f"STREAM.INFO.{stream}", StreamInfo)
        found = await _found(target, stream)
        if found is not None:
            fresh = found.state.last_seq - held.state.last_seq
            if fresh >= 0 and found.state.messages - fresh >= held.state.messages:
                return found
        if loop.time() >= give_up_s:
            break
        await asyncio.sleep(_RETRY_S)
    await call(target, f"STREAM.DELETE.{stream}", Done, timeout_s=_PIECE_S)
    raise LogUnavailable(f"stream {stream} did not arrive whole; trying again")


@asynccontextmanager
async def _snapshot(source: Session, stream: str) -> AsyncIterator[tuple[_Snapshot, AsyncIterator[Msg]]]:
    """Gives what a snapshot says of the stream, and its pieces."""
    async with await source.subscribe() as inbox:
        wanted = {
            "deliver_subject": inbox.subject,
            "chunk_size": _CHUNK_BYTES,
            "window_size": _WINDOW_BYTES,
        }
        snapshot = await call(source, f"STREAM.SNAPSHOT.{stream}", _Snapshot, wanted, _PIECE_S)

        async def pieces() -> AsyncIterator[Msg]:
            while True:
                taken = await inbox.take(1, _PIECE_S)
                if not taken:
                    raise LogUnavailable(f"the snapshot of stream {stream} does not go on")
                if taken[0].data:
                    yield taken[0]
                elif status(taken[0]) in {0, _END}:
                    return
                else:
                    raise LogUnavailable(f"the snapshot of stream {stream} broke off: {status(taken[0])}")

        yield snapshot, pieces()


async def _found(target: Session, stream: str) -> StreamInfo | None:
    try:
        return await call(target, f"STREAM.INFO.{stream}", StreamInfo)
    except Refused as error:
        if error.err_code == api.STREAM_NOT_FOUND:
            return None
        raise


async def _begin(target: Session, stream: str, body: dict[str, Any]) -> _Restore:
    """Begins a restore; one that broke off before, and keeps the name taken without a stream, is removed.

    Raises:
        LogUnavailable: if it is to be tried again.
    """
    try:
        return await call(target, f"STREAM.RESTORE.{stream}", _Restore, body, _PIECE_S)
    except Refused as error:
        if error.err_code != _NAME_TAKEN:
            raise
    await asyncio.sleep(_BROKEN_S)
    if await _found(target, stream) is None:
        await call(target, f"STREAM.DELETE.{stream}", Done, timeout_s=_PIECE_S)
    raise LogUnavailable(f"an attempt to carry stream {stream} had broken off; trying again")


async def _hand_over(target: Session, subject: str, piece: bytes) -> None:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + _REACHED_S
    while status(answer := await target.request(subject, piece, timeout_s=_PIECE_S)):
        if loop.time() >= give_up_s:
            raise LogUnavailable(f"nobody takes the restored stream on {subject}")
        await asyncio.sleep(_RETRY_S)
    fault = msgspec.json.decode(answer.data, type=_Taken).error if answer.data else None
    if fault is not None:
        raise refusal(subject, fault)


async def _finish(target: Session, subject: str) -> None:
    """Says that all was sent, and returns once it is taken up."""
    answer = await target.request(subject, timeout_s=_END_S)
    fault = msgspec.json.decode(answer.data, type=_Taken).error
    if fault is not None:
        raise refusal(subject, fault)


def _config(config: dict[str, Any], begun: str) -> dict[str, Any]:
    """Returns what a stream is restored as: with its incarnation's name, without what servers add."""
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key[:6] != "_nats."}
    return {**config, "num_replicas": 1, "metadata": {**metadata, BEGUN: begun}}
