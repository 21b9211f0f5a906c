"""The CA's ledger: the tokens it gave out, as hashes, and every certificate it signed.

The agent and the commands of the host that keeps the CA use it side by side, so each call opens
the file, does its work in one transaction, and closes it again. Everything here blocks.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from pmoves_mesh.store.database import error_code, open_database, reported, transaction

LEDGER_FILE: Final = "authority.db"

TOKEN_KEPT_MS: Final = 90 * 86_400_000
"""How long a token is remembered after its end, so that whoever shows it is told why it is refused."""

_OPEN_TRIES: Final = 250
_OPEN_PAUSE_S: Final = 0.02

_MIGRATIONS: Final = (
    """
    CREATE TABLE token (
        id TEXT PRIMARY KEY,
        hash TEXT NOT NULL,
        node TEXT,
        allow TEXT NOT NULL,
        lifetime_s INTEGER,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        used_ms INTEGER,
        used_by TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE certificate (
        fingerprint TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        key_id TEXT NOT NULL,
        not_before_ms INTEGER NOT NULL,
        not_after_ms INTEGER NOT NULL,
        der BLOB NOT NULL,
        allow TEXT NOT NULL,
        issued_ms INTEGER NOT NULL,
        revoked_ms INTEGER,
        root TEXT NOT NULL,
        requester TEXT NOT NULL
    ) STRICT;
    CREATE INDEX certificate_name ON certificate (kind, name);
    CREATE INDEX certificate_key ON certificate (key_id)
    """,
)


class StoredToken(Struct, frozen=True, kw_only=True):
    """What the CA remembers of a token.

    Attributes:
        id: its public part.
        hash: of its secret part.
        node: the only node that it lets in; None for any.
        allow: patterns of the service names that the node may state; none allow every name.
        lifetime_s: seconds that the node's certificate holds; None for the usual.
        created_ms: unix milliseconds.
        expires_ms: unix milliseconds; from then on it is refused.
        used_ms: unix milliseconds; None while it is unused.
        used_by: fingerprint of the certificate that it was used for.
    """

    id: str
    hash: str
    node: str | None = None
    allow: tuple[str, ...] = ()
    lifetime_s: int | None = None
    created_ms: int
    expires_ms: int
    used_ms: int | None = None
    used_by: str = ""


class IssuedCertificate(Struct, frozen=True, kw_only=True):
    """A certificate that the CA signed.

    Attributes:
        fingerprint: SHA-256 of the certificate (DER), in hex.
        kind: `node`, `service` or `operator`.
        name: the last part of its SPIFFE ID.
        key_id: SHA-256 of its public key (DER SubjectPublicKeyInfo), in hex.
        not_before_ms: unix milliseconds.
        not_after_ms: unix milliseconds.
        der: the certificate.
        allow: patterns of the service names that its holder may state; none allow every name.
        issued_ms: unix milliseconds.
        revoked_ms: unix milliseconds; None while it is not revoked.
        root: fingerprint of the CA certificate that it chains to.
        requester: SPIFFE ID of the node or operator that vouched for it; empty for this host.
    """

    fingerprint: str
    kind: str
    name: str
    key_id: str
    not_before_ms: int
    not_after_ms: int
    der: bytes
    allow: tuple[str, ...] = ()
    issued_ms: int
    revoked_ms: int | None = None
    root: str
    requester: str = ""

    def holds(self, now_ms: int) -> bool:
        """Returns whether it is neither revoked nor past its end."""
        return self.revoked_ms is None and now_ms < self.not_after_ms


_Record = TypeVar("_Record", StoredToken, IssuedCertificate)

_TOKEN: Final = ", ".join(StoredToken.__struct_fields__)
_CERTIFICATE: Final = ", ".join(IssuedCertificate.__struct_fields__)


class Ledger:
    """The ledger in one file. Every method may raise `StoreError`, and has then changed nothing."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    def version(self) -> tuple[int, int]:
        """Returns what tells one state of the file from another, without reading it."""
        try:
            state = self._path.stat()
        except OSError:
            return (0, 0)
        return (state.st_mtime_ns, state.st_size)

    def add_token(self, token: StoredToken) -> None:
        """Remembers a new token, and forgets those that ended long ago."""
        with self._opened() as connection, transaction(connection):
            connection.execute("DELETE FROM token WHERE expires_ms < ?", (token.created_ms - TOKEN_KEPT_MS,))
            _insert(connection, "token", token)

    def token(self, token_id: str) -> StoredToken | None:
        """Returns a token, or None if there is none of that id."""
        return next(iter(self._tokens("WHERE id = ?", token_id)), None)

    def tokens(self) -> list[StoredToken]:
        """Returns every token, the newest first."""
        return self._tokens("ORDER BY created_ms DESC, id")

    def tokens_pending(self, now_ms: int) -> int:
        """Returns how many tokens could still be used."""
        return sum(token.used_ms is None and now_ms < token.expires_ms for token in self.tokens())

    def drop_token(self, token_id: str) -> bool:
        """Forgets a token; returns whether there was one."""
        if not self._path.exists():
            return False
        with self._opened() as connection:
            return connection.execute("DELETE FROM token WHERE id = ?", (token_id,)).rowcount > 0

    def use_token(self, token_id: str, certificate: IssuedCertificate, now_ms: int) -> bool:
        """Uses a token up for a certificate, and records that, both or neither.

        Returns:
            Whether the token was there, unused and not at its end. Two that ask at once are never
            both told yes.
        """
        with self._opened() as connection, transaction(connection):
            used = connection.execute(
                "UPDATE token SET used_ms = ?, used_by = ? "
                "WHERE id = ? AND used_ms IS NULL AND expires_ms > ?",
                (now_ms, certificate.fingerprint, token_id, now_ms),
            )
            if used.rowcount == 0:
                return False
            _record(connection, certificate)
        return True

    def record(self, certificate: IssuedCertificate) -> IssuedCertificate:
        """Records a certificate, and returns it as it is recorded: revoked, if its key was revoked before.

        One that is recorded already stays as it is.
        """
        with self._opened() as connection, transaction(connection):
            return _record(connection, certificate)

    def certificate(self, fingerprint: str) -> IssuedCertificate | None:
        """Returns a certificate, or None if it is not recorded."""
        return next(iter(self.certificates(fingerprint=fingerprint)), None)

    def certificates(
        self,
        *,
        fingerprint: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        key_id: str | None = None,
        requester: str | None = None,
    ) -> list[IssuedCertificate]:
        """Returns the certificates whose fields have the values given, the newest first."""
        if not self._path.exists():
            return []
        asked = {
            "fingerprint": fingerprint,
            "kind": kind,
            "name": name,
            "key_id": key_id,
            "requester": requester,
        }
        equal = {column: value for column, value in asked.items() if value is not None}
        where = f"WHERE {' AND '.join(f'{column} = ?' for column in equal)} " if equal else ""
        query = f"SELECT {_CERTIFICATE} FROM certificate {where}ORDER BY issued_ms DESC, rowid DESC"  # noqa: S608 - columns
        with self._opened() as connection:
            return [_row(row, IssuedCertificate) for row in connection.execute(query, tuple(equal.values()))]

    def revoke(self, fingerprints: Iterable[str], now_ms: int) -> list[IssuedCertificate]:
        """Revokes certificates with their keys: every other certificate of the same key too.

        Returns:
            Those that this revoked; what was revoked before is not among them.
        """
        if not self._path.exists():
            return []
        revoked: list[IssuedCertificate] = []
        with self._opened() as connection, transaction(connection):
            for fingerprint in fingerprints:
                rows = connection.execute(
                    "UPDATE certificate SET revoked_ms = ? WHERE revoked_ms IS NULL AND key_id = "  # noqa: S608 - columns
                    f"(SELECT key_id FROM certificate WHERE fingerprint = ?) RETURNING {_CERTIFICATE}",
                    (now_ms, fingerprint),
                )
                revoked += [_row(row, IssuedCertificate) for row in rows]
        return revoked

    def _tokens(self, rest: str, *values: str) -> list[StoredToken]:
        if not self._path.exists():
            return []
        with self._opened() as connection:
            rows = connection.execute(f"SELECT {_TOKEN} FROM token {rest}", values)  # noqa: S608 - ours
            return [_row(row, StoredToken) for row in rows]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with reported(self._path):
            if not self._path.exists():
                _make(self._path)
            connection = self._connect()
            try:
                yield connection
            finally:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        """Opens the file, patiently: SQLite refuses at once while somebody else opens or closes it.

        Source: sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode".
        """
        for _ in range(_OPEN_TRIES):
            try:
                return open_database(self._path, _MIGRATIONS, synchronous="FULL")
            except sqlite3.OperationalError as error:
                if error_code(error) != sqlite3.SQLITE_BUSY:
                    raise
                time.sleep(_OPEN_PAUSE_S)
        return open_database(self._path, _MIGRATIONS, synchronous="FULL")


def _make(path: Path) -> None:
    """Puts an empty file, for its owner alone, where there is none.

    It is made elsewhere and linked into place: to open and close SQLite's own file beside SQLite
    would drop the locks that this process has on it.

    Source: sqlite.org/howtocorrupt.html section 2.2.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink()


def _record(connection: sqlite3.Connection, certificate: IssuedCertificate) -> IssuedCertificate:
    _insert(connection, "certificate", certificate)
    connection.execute(
        "UPDATE certificate SET revoked_ms = (SELECT min(revoked_ms) FROM certificate WHERE key_id = ?) "
        "WHERE fingerprint = ? AND revoked_ms IS NULL",
        (certificate.key_id, certificate.fingerprint),
    )
    row = connection.execute(
        f"SELECT {_CERTIFICATE} FROM certificate WHERE fingerprint = ?",  # noqa: S608 - columns
        (certificate.fingerprint,),
    ).fetchone()
    return _row(row, IssuedCertificate)


def _insert(connection: sqlite3.Connection, table: str, record: StoredToken | IssuedCertificate) -> None:
    columns = record.__struct_fields__
    values = [getattr(record, column) for column in columns]
    cells = [" ".join(value) if isinstance(value, tuple) else value for value in values]
    marks = ", ".join("?" * len(cells))
    connection.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})", cells)  # noqa: S608 - ours


def _row(row: tuple[Any, ...], kind: type[_Record]) -> _Record:
    """Returns a row as a record; patterns of names stand in one cell, with blanks between."""
    fields = dict(zip(kind.__struct_fields__, row, strict=True))
    return msgspec.convert(fields | {"allow": tuple(fields["allow"].split())}, kind)
