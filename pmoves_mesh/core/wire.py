"""Events to bytes and back: plain JSON, typed and bounded while it is decoded.

`decode` raises nothing but a `RemoteProtocolError`, whatever the bytes are. Unknown fields are
ignored here and kept by whoever keeps the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from pmoves_mesh.core.event import EVENT_TYPES, Event, NodeAnnounced, Removed, Stated
from pmoves_mesh.core.model import check_json, check_metadata
from pmoves_mesh.core.names import EVENT_BYTES_MAX, shown
from pmoves_mesh.errors import (
    EventTooLarge,
    InvalidFieldError,
    LocalProtocolError,
    MalformedEvent,
    UnknownKind,
    UnsupportedVersion,
)

FORMAT: Final = "1.0"
"""The format that this release writes: a newer minor only adds fields, a newer major is refused."""

_FORMAT_MAJOR: Final = 1
_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Event]]] = {
    kind.subject: msgspec.json.Decoder(kind) for kind in EVENT_TYPES
}
_ENCODER: Final = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """Returns the payload of an event.

    Raises:
        LocalProtocolError: if it is larger than an event may be.
    """
    payload = _ENCODER.encode(event)
    if len(payload) > EVENT_BYTES_MAX:
        raise LocalProtocolError(f"{event.subject}: {len(payload)} bytes, at most {EVENT_BYTES_MAX}")
    return payload


def decode(subject: str, payload: bytes) -> Event:
    """Returns the event that `payload` is, on `subject`.

    Raises:
        UnknownKind: if no event is known on that subject.
        EventTooLarge: if there are more bytes than an event may have.
        MalformedEvent: if it is not JSON, or a field is missing or out of bounds; names the field.
    """
    decoder = _DECODERS.get(subject)
    if decoder is None:
        raise UnknownKind(subject)
    if len(payload) > EVENT_BYTES_MAX:
        raise EventTooLarge(len(payload), EVENT_BYTES_MAX)
    try:
        event = decoder.decode(payload)
        _check_text(payload)
        _check(event)
    except msgspec.ValidationError as error:
        raise malformed(error) from None
    except InvalidFieldError as error:
        raise MalformedEvent(error.field, error.problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("payload", f"not JSON ({error})") from None
    return event


def _check_text(payload: bytes) -> None:
    """Checks what a record in the bucket, which holds the payload as part of its JSON, relies on."""
    payload.decode()
    if payload.strip() != payload:
        raise InvalidFieldError("payload", "has white space around it")


def _check(event: Event) -> None:
    """Checks what the types alone cannot say."""
    if isinstance(event, NodeAnnounced):
        check_json(event.resources, "resources")
    if not isinstance(event, Stated | Removed):
        return
    if event.data.node != event.node:
        raise InvalidFieldError("data.node", f"{shown(event.data.node)} is not the event's node")
    if event.data.name != event.service:
        raise InvalidFieldError("data.name", f"{shown(event.data.name)} is not the event's service")
    if event.data.metadata:
        check_metadata(event.data.metadata, "data.metadata")


def malformed(error: msgspec.ValidationError) -> MalformedEvent:
    """Returns the decoder's complaint as an error that names the field."""
    problem, _, path = str(error).partition(" - at `")
    return MalformedEvent(path.rstrip("`").removeprefix("$").removeprefix(".") or "payload", problem)


def check_format(version: str) -> None:
    """Checks that this release can read a format.

    Raises:
        UnsupportedVersion: if the major version is newer than ours.
        MalformedEvent: if it is no version at all.
    """
    major, _, minor = version.partition(".")
    if not (major.isascii() and major.isdigit() and len(version) <= 16 and (not minor or minor.isdigit())):
        raise MalformedEvent("Mesh-Format", f"{shown(version)} is not a version such as {FORMAT}")
    if int(major) > _FORMAT_MAJOR:
        raise UnsupportedVersion(version, FORMAT)
