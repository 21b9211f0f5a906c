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
_APPEND: Final = "INSERT INTO outbox (subject, payload, headers, ttl_s) VALUES (?, ?, ?, ?)"

_BEFORE_ALL: Final = NodeState(incarnation=0, revision=0, head="")


class _Tally(NamedTuple):
    """What is kept in memory of the database: the node's state, and how many events wait."""

    state: NodeState
    outbox_depth: int


class Journal:
    """The database. Every method may raise `StoreError`, and has then changed nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._tally = _Tally(_BEFORE_ALL, 0)

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
        state = NodeState(incarnation=row[0], revision=row[1], head=row[2]) if row else _BEFORE_ALL
        self._tally = _Tally(state, depth)

    def close(self) -> None:
        """Closes the file, if it is open."""
        if self._connection is not None:
            with reported(self._path):
                self._connection.close()
            self._connection = None

    def write(self, changes: Sequence[Change]) -> list[tuple[int, ...] | MeshError]:
        """Makes changes durable, in order, with one wait for the disk.

        Returns:
            For each change the places of its events in the outbox, or why it was not made; the
            others are then made all the same.
        """
        database = self._opened()
        tally = self._tally
        outcomes: list[tuple[int, ...] | MeshError] = []
        with reported(self._path), transaction(database):
            for change in changes:
                database.execute("SAVEPOINT change")
                try:
                    with reported(self._path):
                        tally, seqs = _apply(database, change, tally)
                    outcomes.append(seqs)
                except MeshError as error:
                    if not database.in_transaction:
                        raise
                    database.execute("ROLLBACK TO change")
                    outcomes.append(error)
                database.execute("RELEASE change")
        self._tally = tally
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


def _apply(database: sqlite3.Connection, change: Change, tally: _Tally) -> tuple[_Tally, tuple[int, ...]]:
    """Makes one change, and returns the tally after it and the places of its events in the outbox."""
    match change:
        case Sent(seqs=seqs):
            gone = database.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs]).rowcount
            return _Tally(tally.state, tally.outbox_depth - max(gone, 0)), ()
        case Commit():
            return _apply_commit(database, change, tally)
        case _:
            assert_never(change)


def _apply_commit(
    database: sqlite3.Connection, commit: Commit, tally: _Tally
) -> tuple[_Tally, tuple[int, ...]]:
    if commit.follows not in {None, tally.state.head}:
        raise StoreError("mesh.db", "the event before this one was not stored")
    depth = tally.outbox_depth + len(commit.appends)
    if depth > OUTBOX_ENTRIES_MAX:
        raise CapacityError("events in the outbox", OUTBOX_ENTRIES_MAX)
    database.executemany("DELETE FROM registration WHERE service = ? AND id = ?", commit.deletes)
    database.executemany(
        _PUT_REGISTRATION,
        [(each.service, each.id, each.record, each.incarnation, each.revision) for each in commit.upserts],
    )
    seqs: list[int] = []
    for each in commit.appends:
        headers = msgspec.json.encode(each.sealed.headers).decode()
        row = (each.sealed.subject, each.sealed.payload, headers, each.ttl_s)
        seqs.append(database.execute(_APPEND, row).lastrowid or 0)
    state = commit.state
    database.execute(_PUT_STATE, (state.incarnation, state.revision, state.head))
    return _Tally(state, depth), tuple(seqs)
