"""What PMOVES applications tell one another on subjects of their own, as far as the mesh keeps it in streams.

Messages are relayed and kept byte for byte as they were sent; what is here reads a copy, and writes
what a program of ours has to tell. What is read comes from many hands: a field that is absent, or not
what it should be, is left at its default, and fields that are not known are passed over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import Struct

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError

_ENVELOPE_MARKS: Final = frozenset({"id", "topic", "ts", "version", "source"})
_VERSION: Final = "v1"
_TOO_MUCH_ZONE: Final = "+00:00Z"


class Place(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an object is kept, as S3 names it."""

    bucket: str = ""
    key: str = ""


class FileAdded(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file was put where the workers find it.

    Attributes:
        uri: where it is, as one text, such as `s3://assets/a.pdf`; or `bucket` and `key` say so.
        kind: what it is, in the sender's own words, such as `video`.
        uploader: the service that put it there.
        timestamp: ISO 8601, as the sender wrote it; `time_of` reads it.
    """

    subject: ClassVar[str] = "ingest.file.added.v1"
    stream: ClassVar[str] = "INGEST_FILE_ADDED"

    file_id: str = ""
    uri: str = ""
    bucket: str = ""
    key: str = ""
    kind: str = ""
    mime_type: str = ""
    size_bytes: int | None = None
    title: str = ""
    namespace: str = ""
    uploader: str = ""
    timestamp: str = ""
    meta: dict[str, Any] = {}


class TranscriptReady(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said in a video or a recording is there as text.

    Attributes:
        video_id: of what was transcribed.
        source: what made it, such as `youtube` or `whisper`.
        storage: where the text is; older senders write `bucket` and `key`, or `s3_uri`, beside it.
        text: the text itself, where it is short.
        timestamp: ISO 8601, as the sender wrote it; `time_of` reads it.
    """

    subject: ClassVar[str] = "ingest.transcript.ready.v1"
    stream: ClassVar[str] = "INGEST_TRANSCRIPT_READY"

    video_id: str = ""
    transcript_id: str = ""
    source: str = ""
    language: str = ""
    duration_seconds: float | None = None
    word_count: int | None = None
    storage: Place | None = None
    bucket: str = ""
    key: str = ""
    s3_uri: str = ""
    text: str = ""
    namespace: str = ""
    timestamp: str = ""
    meta: dict[str, Any] = {}


class ToolExecuted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A developer's assistant has run a tool.

    Attributes:
        result_summary: what came of it, in a few words.
        success: whether it worked; None if nobody says.
        timestamp: ISO 8601, as the sender wrote it; `time_of` reads it.
    """

    subject: ClassVar[str] = "claude.code.tool.executed.v1"
    stream: ClassVar[str] = "CLAUDE_CODE_TOOL_EXECUTED"

    tool: str = ""
    session_id: str = ""
    user: str = ""
    result_summary: str = ""
    success: bool | None = None
    timestamp: str = ""


ApplicationEvent: TypeAlias = FileAdded | TranscriptReady | ToolExecuted

KINDS: Final[tuple[type[ApplicationEvent], ...]] = (FileAdded, TranscriptReady, ToolExecuted)

_BY_SUBJECT: Final = {kind.subject: kind for kind in KINDS}
_ALIASES: Final = {"tool_name": "tool", "content_type": "mime_type", "size": "size_bytes", "lang": "language"}
"""What some senders call a field, and what it is called here."""


class Retention(Struct, frozen=True, kw_only=True):
    """How much each of the streams keeps that hold what applications tell.

    Attributes:
        max_age_s: seconds after which a message is dropped.
        max_bytes: bytes above which the oldest are dropped.
    """

    max_age_s: int
    max_bytes: int


class Told(Struct, frozen=True, kw_only=True):
    """An event, and what its envelope says of it; a bare one has none, and then these are empty.

    Attributes:
        ts: when it was sent, as the sender wrote it; `time_of` reads it.
        source: the service that sent it.
        correlation_id: what it belongs to.
        parent_id: the `id` of the event that led to it.
    """

    event: ApplicationEvent
    id: str = ""
    topic: str = ""
    ts: str = ""
    version: str = ""
    source: str = ""
    correlation_id: str = ""
    parent_id: str = ""


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes around an event that is sent; see `Told`."""

    id: str
    topic: str
    ts: str
    version: str
    source: str
    payload: ApplicationEvent
    correlation_id: str = ""
    parent_id: str = ""


def read(subject: str, payload: bytes) -> Told:
    """Returns what a message tells, in an envelope or bare.

    Raises:
        InvalidFieldError: if nothing is known on that subject, or it is no JSON object.
    """
    kind = _BY_SUBJECT.get(subject)
    if kind is None:
        raise InvalidFieldError("subject", f"{shown(subject)} is none of {', '.join(_BY_SUBJECT)}")
    try:
        fields = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFieldError("payload", f"not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise InvalidFieldError("payload", f"{shown(fields)} is no JSON object")
    inner = fields.get("payload")
    if not isinstance(inner, dict) or not _ENVELOPE_MARKS & fields.keys():
        return Told(event=kind(**_fitting(kind, fields)))
    around = _fitting(Told, {name: value for name, value in fields.items() if name != "event"})
    return Told(event=kind(**_fitting(kind, inner)), **around)


def write(event: ApplicationEvent, envelope_id: str, source: str, ts: str) -> bytes:
    """Returns an event in its envelope, as JSON.

    Args:
        event: what is told.
        envelope_id: unique.
        source: the service that tells it.
        ts: ISO 8601, UTC.
    """
    envelope = Envelope(
        id=envelope_id, topic=event.subject, ts=ts, version=_VERSION, source=source, payload=event
    )
    # Everybody writes these, so that they are there even where they are empty.
    return msgspec.json.encode(envelope)


def time_of(text: str) -> datetime | None:
    """Returns the time in a `ts` or `timestamp`, in UTC; None if it is none.

    Some senders write the zone twice, as `+00:00Z`, and some not at all, which means UTC.

    Source: RFC 3339.
    """
    if text.endswith(_TOO_MUCH_ZONE):
        text = text.removesuffix("Z")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _fitting(kind: type[Struct], fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a kind that are what they should be; texts may hold numbers."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        names = (field.encode_name, *(alias for alias, name in _ALIASES.items() if name == field.encode_name))
        value = next((fields[name] for name in names if fields.get(name) is not None), None)
        if value is None or field.name == "event":
            continue
        try:
            found[field.name] = msgspec.convert(value, field.type, strict=False)
        except (msgspec.ValidationError, RecursionError):
            if field.type is str and isinstance(value, int | float):
                found[field.name] = str(value)
    return found
