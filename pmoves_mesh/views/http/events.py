"""Server-sent events as bytes: what each line of `GET /api/watch` says.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from pmoves_mesh.core import query
from pmoves_mesh.core.feed import Difference
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.views.http.answers import encode

EVENT_STREAM: Final = "text/event-stream"
LAST_CHUNK: Final = b"0\r\n\r\n"

EventStream = Annotated[str, Meta(description="Events snapshot, added, changed, removed and end.")]
"""What a reader gets, as `/openapi.json` shows it."""

EndReason = Literal["slow", "stopping", "away"]


class Removed(Struct, frozen=True, kw_only=True):
    """The instance that went, or that no longer matches."""

    name: str
    node: str
    id: str


class Ended(Struct, frozen=True, kw_only=True):
    """Why no more events come: the reader took them too slowly, this agent stops, or NATS is away from it.

    The reader may come again.
    """

    reason: EndReason


def event(name: str, position: int, *data: bytes) -> bytes:
    """Returns one event; `data` is JSON in parts, and so one line."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (name.encode(), position, b"".join(data))


def of_differences(registry: Registry, differences: Iterable[Difference], position: int) -> bytes:
    """Returns an event for each difference, with the whole instance as it is now."""
    return b"".join(
        event(
            kind, position, _removed(key) if entry is None else encode(query.instance_view(registry, entry))
        )
        for kind, key, entry in differences
    )


def end(reason: EndReason, position: int) -> bytes:
    """Returns the last event."""
    return event("end", position, encode(Ended(reason=reason)))


def comment(position: int, stale_s: float | None) -> bytes:
    """Returns what shows a quiet reader, and whatever stands between, that the connection lives."""
    age = "" if stale_s == 0 else ", never current" if stale_s is None else f", stale for {stale_s:.1f} s"
    return f": position {position}{age}\n\n".encode()


def retry(after_ms: int) -> bytes:
    """Returns when a reader whose connection broke should come again."""
    return b"retry: %d\n\n" % after_ms


def chunk(frame: bytes) -> bytes:
    """Returns bytes as one chunk of an HTTP/1.1 body.

    Source: RFC 9112 section 7.1.
    """
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _removed(key: tuple[str, str, str]) -> bytes:
    name, node, instance_id = key
    return encode(Removed(name=name, node=node, id=instance_id))
