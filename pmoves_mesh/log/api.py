"""The JetStream API as JSON requests: one call, one typed answer, refusals as errors.

nats-py's own wrappers lack the newer fields (per-message TTL) and hide the server's error codes.

Source: NATS ADR-1 (JetStream JSON API), ADR-31 (direct get), ADR-43 (per-message TTL).
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from pmoves_mesh.core.names import JETSTREAM_API
from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing
from pmoves_mesh.log.headers import status
from pmoves_mesh.log.session import REQUEST_TIMEOUT_S, Session

PREFIX: Final = JETSTREAM_API

STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_IN_USE: Final = 10058
SUBJECTS_OVERLAP: Final = 10065
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
TOO_FEW_SERVERS: Final = (10005, 10074)
_NOT_ENABLED: Final = (10039, 10076)

T = TypeVar("T")


class Refused(LogError):
    """JetStream refused a request for a reason of its own, which `err_code` tells apart."""

    def __init__(self, subject: str, err_code: int, description: str) -> None:
        self.subject = subject
        self.err_code = err_code
        self.description = description
        super().__init__(f"JetStream refused {subject}: {description} ({err_code})")


class ApiFault(Struct):
    """The `error` object of an answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Envelope(Struct):
    error: ApiFault | None = None


class Done(Struct):
    """An answer whose content does not matter."""


class StreamState(Struct):
    """Which messages a stream holds, and when it took the oldest and the newest (RFC 3339)."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    first_ts: str = ""
    last_ts: str = ""


class Peer(Struct):
    """Another server that keeps a stream."""

    name: str = ""
    current: bool = False


class Keepers(Struct):
    """The servers that keep a stream together.

    Attributes:
        leader: which of them leads; empty while none does.
        replicas: the others.
    """

    leader: str = ""
    replicas: list[Peer] | None = None


class StreamInfo(Struct):
    """A stream as the server describes it.

    Attributes:
        config: all that is configured, as JSON has it.
        created: when, as an RFC 3339 time; it names this incarnation of the stream.
        cluster: who keeps it; None where a server is alone.
    """

    config: dict[str, Any]
    created: str
    state: StreamState
    cluster: Keepers | None = None


class SequencePair(Struct):
    """A position of a consumer, in the stream's sequence."""

    stream_seq: int = 0


class ConsumerInfo(Struct):
    """A consumer as the server describes it."""

    name: str
    ack_floor: SequencePair
    delivered: SequencePair = msgspec.field(default_factory=SequencePair)
    num_pending: int = 0


class StreamNames(Struct):
    """The streams that a search found."""

    streams: list[str] | None = None


class PublishAck(Struct):
    """The stream's confirmation of a message."""

    seq: int = 0
    error: ApiFault | None = None


async def call(
    session: Session, verb: str, answer: type[T], body: Any = None, timeout_s: float = REQUEST_TIMEOUT_S
) -> T:
    """Sends an API request and returns its answer.

    Args:
        session: where to.
        verb: what follows `$JS.API.`, such as `STREAM.INFO.MESH_EVENTS`.
        answer: the type of the answer.
        body: what to send, as JSON.
        timeout_s: how long to wait for the answer.

    Raises:
        LogUnavailable: if JetStream does not answer now.
        RightMissing: if the account has no JetStream, or the user may not send this request.
        Refused: if JetStream refuses it for another reason.
    """
    subject = PREFIX + verb
    payload = b"" if body is None else msgspec.json.encode(body)
    message = await session.request(subject, payload, timeout_s=timeout_s)
    if status(message):
        raise LogUnavailable(f"JetStream does not answer on {subject} (status {status(message)})")
    try:
        fault = msgspec.json.decode(message.data, type=_Envelope).error
        if fault is None:
            return msgspec.json.decode(message.data, type=answer)
    except msgspec.MsgspecError as error:
        raise LogError(f"the answer to {subject} is not understood: {error}") from None
    raise refusal(subject, fault)


def refusal(subject: str, fault: ApiFault) -> LogError:
    """Returns the error that says what JetStream refused."""
    if fault.err_code in _NOT_ENABLED:
        return RightMissing(
            "JetStream", "JetStream is not enabled for this account; enable it on the nats-server"
        )
    if fault.code == 503:
        return LogUnavailable(f"JetStream cannot do {subject} now: {fault.description}")
    return Refused(subject, fault.err_code, fault.description)


async def publish(session: Session, subject: str, payload: bytes, headers: dict[str, str]) -> int:
    """Publishes into whichever stream claims the subject, and returns the sequence.

    Raises:
        LogUnavailable: if no confirmation came in time.
        RightMissing: if the user may not publish there.
        Refused: if the stream does not take it.
    """
    try:
        seq = await _confirmed(session, subject, payload, headers)
    except LogUnavailable:
        session.note_service(served=False)
        raise
    session.note_service(served=True)
    return seq


async def _confirmed(session: Session, subject: str, payload: bytes, headers: dict[str, str]) -> int:
    message = await session.request(subject, payload, headers)
    if status(message):
        raise LogUnavailable(f"no stream takes {subject} now")
    try:
        ack = msgspec.json.decode(message.data, type=PublishAck)
    except msgspec.MsgspecError as error:
        raise LogError(f"the confirmation of {subject} is not understood: {error}") from None
    if ack.error is not None:
        raise refusal(subject, ack.error)
    return ack.seq
