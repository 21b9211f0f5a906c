"""Which registrations of this node are those of containers, so that no other is ever touched.

The list is on disk before the first registration that it names, so that none outlives its container
unnoticed, whenever this agent ends. A record counts as a container's while it also says so itself:
whoever restates it over HTTP with metadata of their own has taken it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from pmoves_mesh.agent.containers.labels import MARK
from pmoves_mesh.core.model import Instance
from pmoves_mesh.errors import PkiError, StoreError
from pmoves_mesh.pki.files import write_whole

_log: Final = structlog.get_logger(__name__)

CLAIMS_FILE: Final = "containers.json"

_FILE_BYTES_MAX: Final = 64 * 1024 * 1024

Claim = tuple[str, str]
"""The service and the id of an instance of this node."""


def is_marked(record: Instance) -> bool:
    """Returns whether a record says that it is a container's."""
    return isinstance(record.metadata.get(MARK), dict)


class Claims:
    """The list, and its file."""

    def __init__(self, path: Path) -> None:
        """Takes where the list is kept."""
        self._path = path
        self._held: frozenset[Claim] = frozenset()

    @property
    def held(self) -> frozenset[Claim]:
        """What is claimed, whether it is registered or not."""
        return self._held

    async def load(self, records: Iterable[Instance]) -> None:
        """Reads the list; where it is damaged, the records that say so themselves make it up.

        Raises:
            StoreError: if it cannot be read.
        """
        found = await asyncio.to_thread(self._read)
        if found is None:
            found = frozenset((record.name, record.id) for record in records if is_marked(record))
        self._held = found

    async def keep(self, claims: frozenset[Claim]) -> None:
        """Makes this the list, on disk before it returns.

        Raises:
            StoreError: if it cannot be written; the list is then what it was.
        """
        if claims == self._held:
            return
        data = msgspec.json.encode(sorted(claims))
        try:
            await asyncio.to_thread(write_whole, self._path, data, mode=0o600)
        except PkiError as error:
            raise StoreError(str(self._path), str(error)) from None
        self._held = claims

    def _read(self) -> frozenset[Claim] | None:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=frozenset[Claim])
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise StoreError(str(self._path), error.strerror or "cannot be read") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            _log.warning(
                "the list of containers' registrations is damaged, and made anew", path=str(self._path)
            )
            return None
