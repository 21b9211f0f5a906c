"""The streams that keep what PMOVES applications tell one another: made where nobody keeps it yet.

Each of the subjects has a stream of its own, so that one which an installation keeps already, in a
stream of its own making, stays there, and does not keep the others from being kept.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.core.application import KINDS, Retention
from pmoves_mesh.errors import RightMissing
from pmoves_mesh.log import api, replication
from pmoves_mesh.log.api import Refused, StreamInfo, call
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.replication import replicas_wanted
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.topology import streams_on

_NANO: Final = 10**9
_DEDUP_WINDOW_S: Final = 120
_MESSAGE_BYTES_MAX: Final = 1 << 20


class Standing(Struct, frozen=True, kw_only=True):
    """Who keeps what is told on a subject.

    Attributes:
        stream: its name; empty if none is known of.
        ours: whether this mesh made it.
    """

    subject: str
    stream: str = ""
    ours: bool = False


async def ensure(connection: Connection, mesh: str, retention: Retention) -> tuple[Standing, ...]:
    """Makes the streams that are missing, as far as this user may, and returns who keeps what.

    A stream of another making that has one of the subjects is left as it is.

    Raises:
        LogError: if JetStream does not answer, or refuses for a reason that is not expected.
    """
    session = connection.session()
    return tuple([await _ensure(session, kind.subject, kind.stream, mesh, retention) for kind in KINDS])


async def standings(connection: Connection, mesh: str) -> tuple[Standing, ...]:
    """Returns who keeps what, and makes nothing; raises as `ensure`."""
    session = connection.session()
    return tuple([await _standing(session, kind.subject, kind.stream, mesh) for kind in KINDS])


async def keepers(connection: Connection, pattern: str) -> list[str]:
    """Returns the names of the streams that keep what is told on a pattern's subjects.

    Whoever may not search finds those of this mesh alone.

    Raises:
        LogError: if JetStream does not answer.
    """
    session = connection.session()
    try:
        return sorted(set(await streams_on(session, pattern)))
    except RightMissing:
        found = [await _info(session, kind.stream) for kind in KINDS]
        return [info.config["name"] for info in found if info is not None]


async def _ensure(session: Session, subject: str, stream: str, mesh: str, retention: Retention) -> Standing:
    standing = await _standing(session, subject, stream, mesh)
    if standing.stream and not standing.ours:
        return standing
    wanted = _config(subject, stream, mesh, retention) | {"num_replicas": replicas_wanted(session)}
    try:
        if not standing.stream:
            await replication.create(session, wanted)
        else:
            await _update(session, stream, wanted)
    except RightMissing:
        return standing
    except Refused as error:
        if error.err_code not in {api.SUBJECTS_OVERLAP, api.STREAM_NAME_IN_USE}:
            raise
        return await _standing(session, subject, stream, mesh)
    return Standing(subject=subject, stream=stream, ours=True)


async def _standing(session: Session, subject: str, stream: str, mesh: str) -> Standing:
    info = await _info(session, stream)
    if info is not None and subject in info.config.get("subjects", ()):
        ours = (info.config.get("metadata") or {}).get("mesh") == mesh
        return Standing(subject=subject, stream=stream, ours=ours)
    try:
        others = await streams_on(session, subject)
    except RightMissing:
        others = []
    return Standing(subject=subject, stream=others[0] if others else "")


async def _info(session: Session, stream: str) -> StreamInfo | None:
    try:
        return await call(session, f"STREAM.INFO.{stream}", StreamInfo)
    except Refused as error:
        if error.err_code == api.STREAM_NOT_FOUND:
            return None
        raise


async def _update(session: Session, stream: str, wanted: dict[str, Any]) -> None:
    """Gives a stream of ours the retention of the settings; what an operator added stays."""
    info = await _info(session, stream)
    if info is None:
        return
    wanted = wanted | {"num_replicas": max(wanted["num_replicas"], info.config.get("num_replicas", 1))}
    changed = {
        name for name in ("max_age", "max_bytes", "num_replicas") if info.config.get(name) != wanted[name]
    }
    if changed:
        await replication.update(session, info, info.config | {name: wanted[name] for name in changed})


def _config(subject: str, stream: str, mesh: str, retention: Retention) -> dict[str, Any]:
    return {
        "name": stream,
        "description": f"What is told on {subject}, kept by pmoves-mesh",
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": retention.max_age_s * _NANO,
        "max_bytes": retention.max_bytes,
        "max_msg_size": _MESSAGE_BYTES_MAX,
        "max_msgs": -1,
        "max_consumers": -1,
        "duplicate_window": min(_DEDUP_WINDOW_S, retention.max_age_s) * _NANO,
        "allow_direct": True,
        "metadata": {"mesh": mesh},
    }
