"""`mesh.db`: the node's counters, its registrations and its outbox. It runs in the store's own thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, assert_never

import msgspec

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import CapacityError, MeshError, StoreError
from pmoves_mesh.store.database import check_sound, open_database, reported, transaction
from pmoves_mesh.store.records import Commit, NodeState, OutboxEntry, Sent, StoredRegistration

Change: TypeAlias = Commit | Sent

OUTBOX_ENTRIES_MAX: Final = 100_000

_MIGRATIONS: Final = (
    """
    CREATE TABLE node (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        incarnation INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        head TEXT NOT NULL
    ) STRICT;
    CREATE TABLE registration (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        record BLOB NOT NULL,
        incarnation INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (service, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        subject TEXT NOT NULL,
        payload BLOB NOT NULL,
        headers TEXT NOT NULL,
        ttl_s INTEGER
    ) STRICT
    """,
)

_PUT_STATE: Final = "REPLACE INTO node (one, incarnation, revision, head) VALUES (1, ?, ?, ?)"
_PUT_REGISTRATION: Final = (
    "REPLACE INTO registration (service, id, record, incarnation, revision) VALUES (?, ?, ?, ?, ?)"
)
_DROP_REGISTRATION: Final = "DELETE FROM registration WHERE service = ? AND id = ?"
_APPEND: Final = "INSERT INTO outbox (seq, subject, payload, headers, ttl_s) VALUES (?, ?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM outbox WHERE seq = ?"
_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'"

_BEFORE_ALL: Final = NodeState(incarnation=0, revision=0, head="")


class _Tally(NamedTuple):
    """What is kept in memory of the database: the node's state, how many events wait, the last place."""

    state: NodeState
    outbox_depth: int
    last_seq: int


class Journal:
    """The database. Every method may raise `StoreError`, and has then changed nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._tally = _Tally(_BEFORE_ALL, 0, 0)

    @property
    def state(self) -> NodeState:
        """The node's state, as it was last made durable."""
        return self._tally.state

    @property
    def outbox_depth(self) -> int:
        """How many events wait, as it was last made durable."""
        return self._tally.outbox_depth

    def open(self) -> None:
        """Opens the file, or makes it, with its directory."""
        with reported(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = open_database(self._path, _MIGRATIONS, synchronous="FULL")
            check_sound(self._connection, self._path)
            row = self._connection.execute("SELECT incarnation, revision, head FROM node").fetchone()
            (depth,) = self._connection.execute("SELECT count(*) FROM outbox").fetchone()
            (last_seq,) = self._connection.execute(_LAST_SEQ).fetchone()
        state = NodeState(incarnation=row[0], revision=row[1], head=row[2]) if row else _BEFORE_ALL
        self._tally = _Tally(state, depth, last_seq)

    def close(self) -> None:
        """Closes the file, if it is open."""
        if self._connection is not None:
            with reported(self._path):
                self._connection.close()
            self._connection = None

    def write(self, changes: Sequence[Change]) -> list[tuple[int, ...] | MeshError]:
        """Makes changes durable, in order, with one wait for the disk.

        Returns:
            For each change the places of its events in the outbox, or why it cannot be made; the
            others are made all the same.
        """
        database = self._opened()
        group = _Group(self._tally)
        outcomes = [group.take(change) for change in changes]
        with reported(self._path), transaction(database):
            self._tally = group.write(database)
        return outcomes

    def registrations(self) -> list[StoredRegistration]:
        """Returns every registration, by service and id."""
        query = "SELECT service, id, record, incarnation, revision FROM registration ORDER BY service, id"
        with reported(self._path):
            return [
                StoredRegistration(
                    service=row[0], id=row[1], record=row[2], incarnation=row[3], revision=row[4]
                )
                for row in self._opened().execute(query)
            ]

    def outbox(self, count_max: int) -> list[OutboxEntry]:
        """Returns the events that have waited longest, in order."""
        query = "SELECT seq, subject, payload, headers, ttl_s FROM outbox ORDER BY seq LIMIT ?"
        with reported(self._path):
            return [
                OutboxEntry(
                    seq=row[0],
                    sealed=SealedEvent(
                        subject=row[1],
                        payload=row[2],
                        headers=msgspec.json.decode(row[3], type=dict[str, str]),
                    ),
                    ttl_s=row[4],
                )
                for row in self._opened().execute(query, (count_max,))
            ]

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(str(self._path), "it is closed")
        return self._connection


class _Group:
    """What changes come to that are written together: each row once, for SQLite gives way at every one."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._registrations: dict[tuple[str, str], StoredRegistration | None] = {}
        self._appends: list[tuple[int, str, bytes, str, int | None]] = []
        self._sent: list[tuple[int]] = []

    def take(self, change: Change) -> tuple[int, ...] | MeshError:
        """Takes a change in, and returns the places of its events, or why it cannot be made."""
        match change:
            case Sent(seqs=seqs):
                self._sent += ((seq,) for seq in seqs)
                return ()
            case Commit():
                return self._refused(change) or self._committed(change)
            case _:
                assert_never(change)

    def _refused(self, commit: Commit) -> MeshError | None:
        if commit.follows not in {None, self._tally.state.head}:
            return StoreError("mesh.db", "the event before this one was not stored")
        if self._tally.outbox_depth + len(commit.appends) > OUTBOX_ENTRIES_MAX:
            return CapacityError("events in the outbox", OUTBOX_ENTRIES_MAX)
        return None

    def _committed(self, commit: Commit) -> tuple[int, ...]:
        self._registrations.update(dict.fromkeys(commit.deletes))
        self._registrations.update(((each.service, each.id), each) for each in commit.upserts)
        _, depth, last_seq = self._tally
        seqs = tuple(range(last_seq + 1, last_seq + 1 + len(commit.appends)))
        for seq, each in zip(seqs, commit.appends, strict=True):
            headers = msgspec.json.encode(each.sealed.headers).decode()
            self._appends.append((seq, each.sealed.subject, each.sealed.payload, headers, each.ttl_s))
        self._tally = _Tally(commit.state, depth + len(seqs), last_seq + len(seqs))
        return seqs

    def write(self, database: sqlite3.Connection) -> _Tally:
        """Writes what the changes come to, and returns the tally after it."""
        gone = [key for key, one in self._registrations.items() if one is None]
        database.executemany(_DROP_REGISTRATION, gone)
        held = [
            (one.service, one.id, one.record, one.incarnation, one.revision)
            for one in self._registrations.values()
            if one is not None
        ]
        database.executemany(_PUT_REGISTRATION, held)
        database.executemany(_APPEND, self._appends)
        forgotten = max(database.executemany(_FORGET, self._sent).rowcount, 0) if self._sent else 0
        state, depth, last_seq = self._tally
        database.execute(_PUT_STATE, (state.incarnation, state.revision, state.head))
        return _Tally(state, depth - forgotten, last_seq)
