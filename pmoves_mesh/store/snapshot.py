"""`snapshot.db`: the registry as it was at a position. Losing it costs time, never truth.

So a damaged file is set aside and the node begins without it. It runs in the store's own thread.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import structlog

from pmoves_mesh.errors import StoreError
from pmoves_mesh.store.database import error_code, open_database, reported, transaction
from pmoves_mesh.store.records import StoredSnapshot

SET_ASIDE_SUFFIX: Final = ".damaged"

_MIGRATIONS: Final = (
    """
    CREATE TABLE snapshot (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        position INTEGER NOT NULL,
        stream_id TEXT NOT NULL,
        checksum BLOB NOT NULL,
        blob BLOB NOT NULL
    ) STRICT
    """,
)
_PUT: Final = "REPLACE INTO snapshot (one, position, stream_id, checksum, blob) VALUES (1, ?, ?, ?, ?)"

# What SQLite reports when the content is at fault, and not the disk or the permissions.
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}

_log = structlog.get_logger(__name__)


class _UnusableError(Exception):
    """The file is there, but what it holds cannot be used."""


class SnapshotFile:
    """The latest snapshot, in a file that is open only while it is read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, snapshot: StoredSnapshot) -> None:
        """Replaces the snapshot.

        Raises:
            StoreError: if it cannot be written; the earlier one is then still there.
        """
        with reported(self._path):
            try:
                self._write(snapshot)
            except _UnusableError as error:
                self._set_aside(str(error))
                self._write(snapshot)

    def load(self) -> StoredSnapshot | None:
        """Returns the snapshot, or None if there is none, or only a damaged one, which is set aside.

        Raises:
            StoreError: if the file cannot be read at all.
        """
        with reported(self._path):
            if not self._path.exists():
                return None
            try:
                return self._read()
            except _UnusableError as error:
                self._set_aside(str(error))
                return None

    def _write(self, snapshot: StoredSnapshot) -> None:
        row = (snapshot.position, snapshot.stream_id, _checksum(snapshot), snapshot.blob)
        with _unusable_if_damaged(), closing(self._open()) as database, transaction(database):
            database.execute(_PUT, row)

    def _read(self) -> StoredSnapshot | None:
        query = "SELECT position, stream_id, blob, checksum FROM snapshot"
        with _unusable_if_damaged(), closing(self._open()) as database:
            row = database.execute(query).fetchone()
        if row is None:
            return None
        snapshot = StoredSnapshot(position=row[0], stream_id=row[1], blob=row[2])
        if _checksum(snapshot) != row[3]:
            raise _UnusableError("its checksum is wrong")
        return snapshot

    def _open(self) -> sqlite3.Connection:
        try:
            return open_database(self._path, _MIGRATIONS, synchronous="NORMAL")
        except StoreError as error:
            raise _UnusableError(error.problem) from None

    def _set_aside(self, problem: str) -> None:
        aside = self._path.with_name(self._path.name + SET_ASIDE_SUFFIX)
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        _log.warning("snapshot set aside", path=str(aside), reason=problem)


@contextmanager
def _unusable_if_damaged() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if error_code(error) in _DAMAGE:
            raise _UnusableError(str(error)) from None
        raise


def _checksum(snapshot: StoredSnapshot) -> bytes:
    digest = hashlib.sha256(f"{snapshot.position}\n{snapshot.stream_id}\n".encode())
    digest.update(snapshot.blob)
    return digest.digest()
