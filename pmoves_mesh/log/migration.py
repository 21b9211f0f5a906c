"""Taking over from an older registry: which streams are in the way, what they know, making room."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.event import STREAM_SUBJECTS
from pmoves_mesh.errors import LogError
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Done, Refused, StreamInfo, call
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import push_consumer
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.subjects import overlap
from pmoves_mesh.log.topology import EVENTS, streams_on

SERVICES_MAX: Final = 10_000

_REGISTERED: Final = "service.registry.registered"
_GONE: Final = ("service.registry.unregistered", "service.registry.deregistered")
_BATCH_MAX: Final = 1000


class Conflict(Struct, frozen=True, kw_only=True):
    """A stream that claims what the mesh needs.

    Attributes:
        subjects: all that it claims.
        kept: what it would still claim after `migrate`; none means that it would be deleted.
        messages: how many it holds.
    """

    stream: str
    subjects: tuple[str, ...]
    kept: tuple[str, ...]
    messages: int


class _Record(Struct):
    service: str


async def plan(connection: Connection) -> list[Conflict]:
    """Returns the streams that are in the way of the mesh's own.

    Raises:
        LogUnavailable: if JetStream does not answer.
        RightMissing: if JetStream is off, or this user may not ask.
    """
    session = connection.session()
    names = {name for subject in STREAM_SUBJECTS for name in await streams_on(session, subject)}
    return [_conflict(await _info(session, name)) for name in sorted(names - {EVENTS})]


async def registrations(connection: Connection, stream_name: str) -> list[bytes]:
    """Returns what a stream knows of services: the latest registration of each that is registered still.

    Raises:
        LogError: if there is no such stream, or it is not in the way.
        LogUnavailable: if JetStream does not answer.
        RightMissing: if this user may not.
    """
    session = connection.session()
    await _in_the_way(session, stream_name)
    return await _registrations(session, stream_name)


async def make_room(connection: Connection, stream_name: str) -> None:
    """Takes the mesh's subjects from a stream; one that has no others is deleted. The asking is the caller's.

    Args:
        connection: to the account.
        stream_name: one of those that `plan` returned.

    Raises:
        LogError: if there is no such stream, or it is not in the way.
        LogUnavailable: if JetStream does not answer.
        RightMissing: if this user may not.
    """
    session = connection.session()
    info = await _in_the_way(session, stream_name)
    kept = _conflict(info).kept
    if kept:
        await call(session, f"STREAM.UPDATE.{stream_name}", Done, {**info.config, "subjects": list(kept)})
    else:
        await call(session, f"STREAM.DELETE.{stream_name}", Done)


async def _in_the_way(session: Session, stream_name: str) -> StreamInfo:
    info = await _info(session, stream_name)
    conflict = _conflict(info)
    if stream_name == EVENTS or conflict.kept == conflict.subjects:
        raise LogError(f"stream {stream_name} is not in the mesh's way; nothing was changed")
    return info


async def _info(session: Session, stream: str) -> StreamInfo:
    try:
        return await call(session, f"STREAM.INFO.{stream}", StreamInfo)
    except Refused as error:
        if error.err_code != api.STREAM_NOT_FOUND:
            raise
        raise LogError(f"there is no stream {stream}") from None


def _conflict(info: StreamInfo) -> Conflict:
    subjects = tuple(info.config.get("subjects") or ())
    return Conflict(
        stream=info.config["name"],
        subjects=subjects,
        kept=tuple(name for name in subjects if not any(overlap(name, ours) for ours in STREAM_SUBJECTS)),
        messages=info.state.messages,
    )


async def _registrations(session: Session, stream: str) -> list[bytes]:
    """Returns the latest registration of each service, at most `SERVICES_MAX`, the newest ones."""
    latest: dict[str, bytes] = {}
    config = {"deliver_policy": "all", "filter_subject": "service.registry.*"}
    async with push_consumer(session, stream, config) as consumer:
        while consumer.pending:
            for message, _ in await consumer.take(_BATCH_MAX):
                service = _service(message.data)
                if service and message.subject in {_REGISTERED, *_GONE}:
                    latest.pop(service, None)
                    if message.subject == _REGISTERED:
                        latest[service] = message.data
                if len(latest) > SERVICES_MAX:
                    del latest[next(iter(latest))]
    return list(latest.values())


def _service(payload: bytes) -> str:
    try:
        return msgspec.json.decode(payload, type=_Record).service
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
