"""`services.announce.v1`: the older protocol in which services announce themselves by their slug.

Read, it becomes the registry event that says the same; written, it is what today's listeners
expect. Both ways are plain JSON without a signature.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from pmoves_mesh.core import wire
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import EVENT_BYTES_MAX, sanitise_label, shown
from pmoves_mesh.errors import EventTooLarge, InvalidFieldError, MalformedEvent

SUBJECT: Final = "services.announce.v1"

_TIER: Final = "tier:"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class _Announcement(Struct, kw_only=True):
    slug: str
    name: str | None = None
    url: str | None = None
    health_check: str | None = None
    tier: str | None = None
    port: int | str | None = None
    timestamp: Any = None
    metadata: dict[str, Any] | None = None


def read(payload: bytes) -> tuple[str, bytes]:
    """Returns the service's name, and the `service.registry.registered` payload that says the same.

    Raises:
        MalformedEvent: if it is no such announcement; names the field.
        EventTooLarge: if there are more bytes than an event may have.
    """
    if len(payload) > EVENT_BYTES_MAX:
        raise EventTooLarge(len(payload), EVENT_BYTES_MAX)
    try:
        said = msgspec.json.decode(payload, type=_Announcement)
        name = sanitise_label(said.slug, "slug")
        host, port = _place(said, name)
    except msgspec.ValidationError as error:
        raise wire.malformed(error) from None
    except InvalidFieldError as error:
        raise MalformedEvent(error.field, error.problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("payload", f"not JSON ({error})") from None
    data = {
        "name": name,
        "host": host,
        "port": port,
        "capabilities": [f"{_TIER}{said.tier}"] if said.tier else [],
        "health_url": said.health_check,
        "metadata": said.metadata or {},
    }
    body = {"type": "registered", "service": name, "timestamp": said.timestamp, "data": data}
    return name, msgspec.json.encode(body)


def write(record: Instance, timestamp: str) -> bytes:
    """Returns the announcement of an instance that this mesh knows."""
    tiers = [name.removeprefix(_TIER) for name in record.capabilities if name.startswith(_TIER)]
    host = f"[{record.host}]" if ":" in record.host else record.host
    return msgspec.json.encode(
        {
            "slug": record.name,
            "name": record.name,
            "url": f"http://{host}:{record.port}" if record.port else None,
            "health_check": record.health_url,
            "tier": tiers[0] if tiers else "api",
            "port": record.port,
            "timestamp": timestamp,
            "metadata": record.metadata,
        }
    )


def _place(said: _Announcement, name: str) -> tuple[str, int | str]:
    """Returns host and port: of the URL where there is one, else the service's own name."""
    try:
        parts = urlsplit(said.url or "")
        url_port = parts.port
    except ValueError:
        raise InvalidFieldError("url", f"{shown(said.url)} is not a URL") from None
    port = said.port or url_port or _DEFAULT_PORTS.get(parts.scheme, 0)
    return parts.hostname or name, port
