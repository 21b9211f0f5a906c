"""A registration as it is kept in the local database: the record, and the check that goes with it.

The check stands beside the fields of the record, so that an earlier release reads the record and
passes the check over, and nothing of it reaches the stream.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
from msgspec import Raw

from pmoves_mesh.core.check import Check
from pmoves_mesh.core.model import Instance

_log: Final = structlog.get_logger(__name__)


class _Kept(Instance, frozen=True, kw_only=True, gc=False):
    """An instance, and the check that was asked for, as JSON."""

    check: Raw = Raw(b"null")


def pack(record: Instance, check: Check | None) -> bytes:
    """Returns a registration as JSON."""
    if check is None:
        return msgspec.json.encode(record)
    fields: dict[str, Any] = {name: getattr(record, name) for name in record.__struct_fields__}
    return msgspec.json.encode({**fields, "check": check})


def unpack(data: bytes) -> tuple[Instance, Check | None]:
    """Returns what `pack` was given; a check that a later release has written is passed over."""
    kept = msgspec.json.decode(data, type=_Kept)
    record = Instance(**{name: getattr(kept, name) for name in Instance.__struct_fields__})
    try:
        return record, msgspec.json.decode(kept.check, type=Check | None)
    except msgspec.ValidationError:
        _log.warning("a check is not understood, and not made", service=record.name, id=record.id)
        return record, None
