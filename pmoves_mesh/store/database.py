"""Opening a SQLite file so that it is sound, durable and of this release, or saying why not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pmoves_mesh.errors import StoreError

_BUSY_S: Final = 5.0
_VERDICT_LENGTH_MAX: Final = 120

# What SQLite says, and what a person can do about it. SQLite's own words stay in the line.
_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the owner and the mount",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the directory's owner and the mount",
    sqlite3.SQLITE_PERM: "access is denied: check the owner",
    sqlite3.SQLITE_IOERR: "the disk failed, or it is full: check it",
    sqlite3.SQLITE_BUSY: "another process is using it: is a second agent running here?",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it, or move it away to begin without it",
    sqlite3.SQLITE_NOTADB: "it is no database: restore it, or move it away to begin without it",
}


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns what SQLite or the file system raises into one `StoreError` about `path`."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = _REMEDIES.get(error_code(error))
        raise StoreError(str(path), f"{remedy} ({error})" if remedy else str(error)) from None
    except OSError as error:
        raise StoreError(str(path), error.strerror or str(error)) from None


def open_database(
    path: Path, migrations: Sequence[str], *, synchronous: Literal["FULL", "NORMAL"]
) -> sqlite3.Connection:
    """Opens, and if need be makes, a database in write-ahead mode whose schema is up to date.

    Args:
        path: the file.
        migrations: the SQL that leads from each version of the schema to the next; the version
            is the number of those applied.
        synchronous: FULL makes every commit durable, NORMAL only keeps the file sound.

    Raises:
        sqlite3.Error: if it cannot be opened, or is damaged.
        StoreError: if a newer release wrote it.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        _migrate(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def check_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Reads the whole database once, to find damage now and not in the middle of the work.

    Raises:
        sqlite3.Error: if it is damaged.
        StoreError: likewise.
    """
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        found = " ".join(verdict.split())[:_VERDICT_LENGTH_MAX]
        raise StoreError(str(path), f"{_REMEDIES[sqlite3.SQLITE_CORRUPT]} ({found})")


def error_code(error: sqlite3.Error) -> int:
    """Returns SQLite's primary result code, 0 if there is none.

    Source: sqlite.org/rescode.html (extended codes carry the primary one in the low byte).
    """
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is done inside, or undoes all of it if that raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise StoreError(
            str(path), f"a newer release wrote it (schema {version}, this one knows {len(migrations)})"
        )
    for number, script in enumerate(migrations[version:], version + 1):
        with transaction(connection):
            (reached,) = connection.execute("PRAGMA user_version").fetchone()
            if reached >= number:
                continue  # another process was faster
            for statement in script.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
