"""What the mesh keeps on JetStream: its stream, its buckets, its shared consumers; made once, then checked.

Every agent ensures all of it at its start, several at once as may be: creating what is already
there in the same form changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.core import names
from pmoves_mesh.core.event import STREAM_SUBJECTS
from pmoves_mesh.core.names import EVENT_BYTES_MAX, bucket_stream
from pmoves_mesh.errors import ForeignStream, LogUnavailable, RightMissing, ServerTooOld, StreamInTheWay
from pmoves_mesh.log import api, checkpoints, replication
from pmoves_mesh.log.api import ConsumerInfo, Done, Refused, StreamInfo, StreamNames, call
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.replication import replicas_wanted
from pmoves_mesh.log.session import Session
from pmoves_mesh.ports import LogBounds

EVENTS: Final = names.EVENTS
REGISTRY: Final = names.REGISTRY
IDENTITIES: Final = names.IDENTITIES
LEASES: Final = names.LEASES
MATERIALISER: Final = names.MATERIALISER
WITNESS: Final = names.WITNESS

BEGUN: Final = "begun"
"""Under which of its metadata a stream that was carried to other servers says when it was made."""

_SERVER_NEEDED: Final = (2, 11)
_NANO: Final = 10**9
_DAY_S: Final = 86400.0
_GIB: Final = 2**30
_HEADERS_BYTES_MAX: Final = 4096
_RECORD_BYTES_MAX: Final = 2 * EVENT_BYTES_MAX
_LEASE_BYTES_MAX: Final = 16 * 1024
_LEASES_BYTES_MAX: Final = 64 * 2**20
_DEDUP_WINDOW_S: Final = 120
_MARKER_TTL_S: Final = 600
_ACK_WAIT_S: Final = 30
_WITNESS_ACK_WAIT_S: Final = 2
_ACKS_PENDING_MAX: Final = 2000
_WAITING_MAX: Final = 4096
_CREATE_TIMEOUT_S: Final = 5.0


class StreamIdentity(Struct, frozen=True):
    """Whose events a stream holds.

    Attributes:
        mesh: the mesh's name.
        ca_fingerprint: SHA-256 of the mesh's CA certificate (DER), in hex.
    """

    mesh: str
    ca_fingerprint: str


class _Limits(Struct, frozen=True):
    max_age_s: float
    max_bytes: int
    replicas: int


def bounds_of(info: StreamInfo) -> LogBounds:
    """Returns which positions a stream holds."""
    state = info.state
    first = state.first_seq if state.messages else state.last_seq + 1
    return LogBounds(first=first, last=state.last_seq, stream_id=begun_of(info))


def begun_of(info: StreamInfo) -> str:
    """Returns what names the incarnation of a stream: when it was made, wherever it was carried since."""
    return str((info.config.get("metadata") or {}).get(BEGUN) or info.created)


async def ensure(
    connection: Connection,
    mesh: str,
    ca_fingerprints: Sequence[str] | str,
    *,
    max_age_s: float = 30 * _DAY_S,
    max_bytes: int = _GIB,
) -> LogBounds:
    """Makes whatever is missing, checks what is there, and returns the stream's bounds.

    On a cluster of three servers or more each stream is kept on three; what is there is never reduced.

    Args:
        connection: to the mesh's NATS account.
        mesh: the mesh's name.
        ca_fingerprints: of the CA certificates that it knows, the issuing one first.
        max_age_s: seconds after which the stream drops an event.
        max_bytes: bytes above which the stream drops its oldest events.

    Raises:
        LogUnavailable: if JetStream does not answer.
        ServerTooOld: if the nats-server lacks per-message TTL.
        ForeignStream: if the account holds another mesh, or this one under another CA.
        StreamInTheWay: if another stream claims a subject that the mesh needs.
        RightMissing: if JetStream is off, or this user lacks a permission.
    """
    session = connection.session()
    _check_server(session)
    known = (ca_fingerprints,) if isinstance(ca_fingerprints, str) else tuple(ca_fingerprints)
    identity = StreamIdentity(mesh, known[0])
    limits = _Limits(max_age_s, max_bytes, replicas_wanted(session))
    info = await _ensure_stream(session, _events(identity, limits), known)
    # Where there were too few servers for the stream, there are too few for the buckets.
    limits = _Limits(max_age_s, max_bytes, min(limits.replicas, info.config.get("num_replicas", 1)))
    for bucket in (_bucket(REGISTRY, identity, limits), _bucket(IDENTITIES, identity, limits)):
        await _ensure_stream(session, bucket, known)
    with suppress(LogUnavailable):  # a node can join without, and `ensure_leases` is tried again and again
        await _ensure_leases(session, _leases(identity, limits), known)
    store = checkpoints.configuration(limits.max_age_s, limits.max_bytes)
    await _ensure_checkpoints(session, {**_bucket("", identity, limits), **store}, known)
    await _ensure_materialiser(session)
    return bounds_of(info)


async def ensure_leases(connection: Connection, mesh: str, ca_fingerprints: Sequence[str]) -> None:
    """Makes the bucket of leases anew, if a restart of the server took it: it is in memory alone.

    Raises:
        LogError: as `ensure` does.
    """
    session = connection.session()
    leases = _leases(StreamIdentity(mesh, ca_fingerprints[0]), _Limits(0, 0, replicas_wanted(session)))
    await _ensure_stream(session, leases, tuple(ca_fingerprints))
    await _ensure_witness(session)


async def peek(connection: Connection) -> StreamIdentity | None:
    """Returns whose events the account holds, or None if there is no mesh in it yet.

    Raises:
        LogUnavailable: if JetStream does not answer.
        RightMissing: if JetStream is off, or this user may not ask.
        ForeignStream: if there is a stream of the mesh's name that no mesh made.
    """
    session = connection.session()
    _check_server(session)
    info = await _find(session, EVENTS)
    return None if info is None else _identity(info, EVENTS)


def _check_server(session: Session) -> None:
    version = str(session.info.get("version", ""))
    numbers = [int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2] if part.isdigit()]
    if tuple(numbers) < _SERVER_NEEDED:
        raise ServerTooOld(version or "of unknown version", ".".join(map(str, _SERVER_NEEDED)))
    if not session.info.get("jetstream"):
        raise RightMissing("JetStream", f"JetStream is not enabled on {session.url}; start it with -js")


def _events(identity: StreamIdentity, limits: _Limits) -> dict[str, Any]:
    return {
        "name": EVENTS,
        "description": "The events of a pmoves-mesh: its only truth",
        "subjects": list(STREAM_SUBJECTS),
        "max_age": int(limits.max_age_s * _NANO),
        "max_bytes": limits.max_bytes,
        "max_msg_size": EVENT_BYTES_MAX + _HEADERS_BYTES_MAX,
        "max_msgs": -1,
        "max_consumers": -1,
        "discard": "old",
        "deny_purge": True,
        "duplicate_window": _DEDUP_WINDOW_S * _NANO,
        **_common(identity, limits),
    }


def _bucket(name: str, identity: StreamIdentity, limits: _Limits) -> dict[str, Any]:
    """Returns the stream behind a bucket whose keys may have a TTL of their own.

    Source: NATS ADR-8 (key-value), ADR-48 (TTL of keys and their markers).
    """
    return {
        "name": bucket_stream(name),
        "subjects": [f"$KV.{name}.>"],
        "max_msgs_per_subject": 1,
        "max_msg_size": _RECORD_BYTES_MAX,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_consumers": -1,
        "discard": "new",
        "deny_purge": True,
        "allow_rollup_hdrs": False,
        "subject_delete_marker_ttl": 0,
        "duplicate_window": _DEDUP_WINDOW_S * _NANO,
        **_common(identity, limits),
    }


def _leases(identity: StreamIdentity, limits: _Limits) -> dict[str, Any]:
    """Returns the stream behind the leases: small, in memory, and each key's end leaves a marker.

    A marker needs roll-ups to be allowed, which the other buckets can do without: with that header
    whoever may write one key could empty the bucket.

    Source: NATS ADR-48.
    """
    return {
        **_bucket(LEASES, identity, limits),
        "storage": "memory",
        "max_msg_size": _LEASE_BYTES_MAX,
        "max_bytes": _LEASES_BYTES_MAX,
        "deny_purge": False,
        "allow_rollup_hdrs": True,
        "subject_delete_marker_ttl": _MARKER_TTL_S * _NANO,
    }


def _common(identity: StreamIdentity, limits: _Limits) -> dict[str, Any]:
    return {
        "retention": "limits",
        "storage": "file",
        "num_replicas": limits.replicas,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "metadata": {"mesh": identity.mesh, "ca": identity.ca_fingerprint},
    }


async def _find(session: Session, stream: str) -> StreamInfo | None:
    try:
        return await call(session, f"STREAM.INFO.{stream}", StreamInfo)
    except Refused as error:
        if error.err_code == api.STREAM_NOT_FOUND:
            return None
        raise


async def _ensure_stream(session: Session, config: dict[str, Any], known: Sequence[str]) -> StreamInfo:
    """Returns a stream that is as wanted: found, made or updated.

    One that was made under another of the CA certificates that the mesh knows is ours.
    """
    name = config["name"]
    info = await _find(session, name) or await _create(session, config)
    found = _identity(info, name)
    wanted = StreamIdentity(config["metadata"]["mesh"], known[0])
    if found.mesh != wanted.mesh or found.ca_fingerprint not in known:
        raise ForeignStream(_foreign(name, found, wanted))
    replicas = max(config["num_replicas"], info.config.get("num_replicas", 1))
    config = {**config, "num_replicas": replicas}
    changed = {key for key, value in config.items() if _held(info, key) != value}
    if not changed:
        return info
    body = {**info.config, **config, "metadata": {**info.config["metadata"], **config["metadata"]}}
    try:
        return await replication.update(session, info, body)
    except RightMissing:
        # A node with least privilege takes the stream as whoever may change it has set it.
        return info


async def _ensure_leases(session: Session, config: dict[str, Any], known: Sequence[str]) -> None:
    """Makes the leases' bucket where this user may: a restart of the server takes what is in memory.

    A node with least privilege joins without it, until whoever may make it has joined too.
    """
    found = await _find(session, config["name"]) is not None
    if found:
        await _ensure_stream(session, config, known)
    with suppress(RightMissing):
        if not found:
            await _create(session, config)
        await _ensure_witness(session)


async def _ensure_checkpoints(session: Session, config: dict[str, Any], known: Sequence[str]) -> None:
    """Makes the store of checkpoints where this user may; without it the past takes longer to tell."""
    if await _find(session, config["name"]) is not None:
        await _ensure_stream(session, config, known)
        return
    with suppress(RightMissing):
        await _create(session, config)


def _held(info: StreamInfo, key: str) -> Any:
    """Returns what a stream's configuration says, as far as it concerns us."""
    value = info.config.get(key)
    if key == "metadata" and isinstance(value, dict):
        return {name: value.get(name) for name in ("mesh", "ca")}
    if key == "subject_delete_marker_ttl":
        return value or 0
    return bool(value) if key.startswith(("deny_", "allow_")) else value


async def _create(session: Session, config: dict[str, Any]) -> StreamInfo:
    """Makes a stream, or returns the one that another agent made at the same moment."""
    name = config["name"]
    try:
        return await replication.create(session, config)
    except Refused as error:
        if error.err_code == api.SUBJECTS_OVERLAP:
            await _raise_in_the_way(session, config)
        if error.err_code != api.STREAM_NAME_IN_USE:
            raise
    except RightMissing as error:
        remedy = f"start the agent of the host that runs the nats-server: it makes the stream {name}"
        raise RightMissing(error.right, remedy) from None
    return await call(session, f"STREAM.INFO.{name}", StreamInfo)


async def _raise_in_the_way(session: Session, config: dict[str, Any]) -> None:
    for subject in config["subjects"]:
        for other in await streams_on(session, subject):
            if other != config["name"]:
                claimed = await call(session, f"STREAM.INFO.{other}", StreamInfo)
                raise StreamInTheWay(other, tuple(claimed.config.get("subjects", ())))


async def streams_on(session: Session, subject: str) -> list[str]:
    """Returns the names of the streams that claim a subject, or a part of it.

    Raises:
        LogUnavailable: if JetStream does not answer.
        RightMissing: if this user may not ask.
    """
    found = await call(session, "STREAM.NAMES", StreamNames, {"subject": subject})
    return found.streams or []


async def _ensure_materialiser(session: Session) -> None:
    config = {
        "description": "Hands each event to one agent, which writes it to the bucket",
        "ack_wait": _ACK_WAIT_S * _NANO,
    }
    await _ensure_consumer(session, EVENTS, MATERIALISER, config)


async def _ensure_witness(session: Session) -> None:
    """Makes the consumer of the leases' markers; it goes with the leases, and is made anew with them.

    In memory on three servers, of which two ended at once, it never finds a leader again.
    """
    verb = f"{bucket_stream(LEASES)}.{WITNESS}"
    with suppress(Refused):  # there is none
        try:
            await call(session, f"CONSUMER.INFO.{verb}", ConsumerInfo)
        except LogUnavailable:
            await call(session, f"CONSUMER.DELETE.{verb}", Done)
    config = {
        "description": "Hands each lease that ran out to one agent, which states the loss",
        "ack_wait": _WITNESS_ACK_WAIT_S * _NANO,
        "headers_only": True,
        "mem_storage": True,
        "max_waiting": _WAITING_MAX,
    }
    await _ensure_consumer(session, bucket_stream(LEASES), WITNESS, config)


async def _ensure_consumer(session: Session, stream: str, name: str, config: dict[str, Any]) -> None:
    """Makes a durable pull consumer, unless it is there."""
    config = {
        "durable_name": name,
        "name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "max_deliver": -1,
        "max_ack_pending": _ACKS_PENDING_MAX,
        "replay_policy": "instant",
        **config,
    }
    verb = f"{stream}.{name}"
    try:
        await call(session, f"CONSUMER.INFO.{verb}", ConsumerInfo)
    except Refused:
        body = {"stream_name": stream, "config": config}
        await call(session, f"CONSUMER.CREATE.{verb}", Done, body, _CREATE_TIMEOUT_S)


def _identity(info: StreamInfo, name: str) -> StreamIdentity:
    metadata = info.config.get("metadata") or {}
    if "mesh" not in metadata or "ca" not in metadata:
        raise ForeignStream(
            f"stream {name} was not made by a pmoves-mesh; remove it, or give the mesh its own NATS account"
        )
    return StreamIdentity(metadata["mesh"], metadata["ca"])


def _foreign(name: str, found: StreamIdentity, wanted: StreamIdentity) -> str:
    if found.mesh != wanted.mesh:
        return (
            f"this NATS account already holds mesh {found.mesh!r} (stream {name}), not {wanted.mesh!r}; "
            "set PMOVES_MESH_NAME to it, or give this mesh its own account"
        )
    return (
        f"mesh {found.mesh!r} (stream {name}) is under the CA {found.ca_fingerprint[:16]}, "
        f"not {wanted.ca_fingerprint[:16]}; use the ca.crt of that mesh, or name this mesh differently"
    )
