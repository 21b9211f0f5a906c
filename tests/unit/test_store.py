"""The local database: nothing acknowledged is lost, and what cannot be read says so in one line."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import CapacityError, StoreError
from pmoves_mesh.store import journal
from pmoves_mesh.store.records import Commit, NodeState, Outgoing, StoredRegistration
from pmoves_mesh.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_800_000_000_000


def state(revision: int, incarnation: int = NOW_MS) -> NodeState:
    return NodeState(incarnation=incarnation, revision=revision, head=f"head-{revision}")


def registration(name: str, revision: int = 1) -> StoredRegistration:
    return StoredRegistration(
        service=name, id="1", record=b'{"name":"%s"}' % name.encode(), incarnation=NOW_MS, revision=revision
    )


def outgoing(text: str, ttl_s: int | None = None) -> Outgoing:
    headers = {"Nats-Msg-Id": text, "Mesh-Format": "1.0"}
    return Outgoing(
        sealed=SealedEvent(subject="service.registry.registered", payload=text.encode(), headers=headers),
        ttl_s=ttl_s,
    )


async def test_a_new_database_is_empty(tmp_path: Path):
    async with Store.opened(tmp_path / "data") as store:
        assert store.state == NodeState(incarnation=0, revision=0, head="")
        assert await store.registrations() == []
        assert await store.outbox(10) == []
        assert store.outbox_depth == 0
        assert await store.load_snapshot() is None


async def test_what_was_committed_is_there_after_the_database_is_opened_again(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        commit = Commit(
            state=state(1),
            upserts=[registration("whisper"), registration("rag")],
            appends=[outgoing("first"), outgoing("second", ttl_s=30)],
        )
        assert await store.commit(commit) == (1, 2)
    async with Store.opened(tmp_path) as store:
        assert store.state == state(1)
        assert await store.registrations() == [registration("rag"), registration("whisper")]
        waiting = await store.outbox(10)
        assert [(entry.seq, entry.sealed, entry.ttl_s) for entry in waiting] == [
            (1, outgoing("first").sealed, None),
            (2, outgoing("second").sealed, 30),
        ]
        assert store.outbox_depth == 2


async def test_a_registration_is_replaced_and_removed_by_service_and_id(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await store.commit(Commit(state=state(1), upserts=[registration("rag"), registration("whisper")]))
        await store.commit(
            Commit(state=state(2), upserts=[registration("rag", revision=2)], deletes=[("whisper", "1")])
        )
        assert await store.registrations() == [registration("rag", revision=2)]


async def test_a_commit_that_does_not_follow_what_is_stored_is_refused_whole(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await store.commit(Commit(state=state(1), follows=""))
        with pytest.raises(StoreError, match="before this one was not stored"):
            await store.commit(Commit(state=state(3), upserts=[registration("rag")], follows="head-2"))
        assert store.state == state(1)
        assert await store.registrations() == []
        await store.commit(Commit(state=state(3), follows="head-1"))
        assert store.state == state(3)


async def test_commits_made_at_once_keep_their_order_and_get_their_own_results(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        commits = [Commit(state=state(n), appends=[outgoing(f"{n}")]) for n in range(1, 601)]
        results = await asyncio.gather(*(store.commit(commit) for commit in commits))
        assert results == [(n,) for n in range(1, 601)]
        assert store.state == state(600)
        assert [entry.sealed.payload for entry in await store.outbox(3)] == [b"1", b"2", b"3"]
        assert store.outbox_depth == 600


async def test_commits_made_at_once_wait_for_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    groups: list[int] = []
    write = journal.Journal.write

    def counted(self: journal.Journal, changes: list[journal.Change]) -> object:
        groups.append(len(changes))
        return write(self, changes)

    monkeypatch.setattr(journal.Journal, "write", counted)
    async with Store.opened(tmp_path) as store:
        await asyncio.gather(*(store.commit(Commit(state=state(n))) for n in range(500)))
    assert sum(groups) == 500
    assert len(groups) <= 5


async def test_more_commits_than_may_wait_are_all_made_in_turn(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await asyncio.gather(*(store.commit(Commit(state=state(n))) for n in range(1, 2001)))
        assert store.state == state(2000)


async def test_one_commit_that_fails_leaves_its_neighbours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(journal, "OUTBOX_ENTRIES_MAX", 3)
    async with Store.opened(tmp_path) as store:
        two = [outgoing("a"), outgoing("b")]
        good, bad, also_good = await asyncio.gather(
            store.commit(Commit(state=state(1), appends=two)),
            store.commit(Commit(state=state(2), upserts=[registration("rag")], appends=two)),
            store.commit(Commit(state=state(3), appends=two[:1])),
            return_exceptions=True,
        )
        assert good == (1, 2)
        assert isinstance(bad, CapacityError)
        assert also_good == (3,)
        assert await store.registrations() == []
        assert store.state == state(3)
        assert store.outbox_depth == 3


async def test_a_commit_is_made_whole_or_not_at_all(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        broken = outgoing("x")
        unfit = Outgoing(sealed=broken.sealed, ttl_s="soon")  # type: ignore[arg-type] # refused by the table
        with pytest.raises(StoreError):
            await store.commit(Commit(state=state(1), upserts=[registration("rag")], appends=[broken, unfit]))
        assert await store.registrations() == []
        assert await store.outbox(10) == []
        assert store.state.revision == 0
        assert await store.commit(Commit(state=state(1), appends=[broken])) != ()


async def test_sent_events_leave_the_outbox_and_their_places_are_never_given_again(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await store.commit(Commit(state=state(1), appends=[outgoing(f"{n}") for n in range(4)]))
        await store.sent([1, 3, 4, 4, 99])
        await store.sent([])
        assert [entry.seq for entry in await store.outbox(10)] == [2]
        assert store.outbox_depth == 1
        await store.sent([2])
    async with Store.opened(tmp_path) as store:
        assert store.outbox_depth == 0
        assert await store.commit(Commit(state=state(2), appends=[outgoing("next")])) == (5,)


CRASH = """
import asyncio, sys
from pathlib import Path
from pmoves_mesh.store.records import Commit, NodeState
from pmoves_mesh.store.store import Store

async def main():
    async with Store.opened(Path(sys.argv[1])) as store:
        revision = 0
        while True:
            revision += 1
            await store.commit(Commit(state=NodeState(incarnation=1, revision=revision, head="")))
            print(revision, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", CRASH, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = [*process.stdout]
        assert process.wait(30) == -signal.SIGKILL
    acknowledged = int(said[-1]) if said else 20
    async with Store.opened(tmp_path) as store:
        assert store.state.revision >= acknowledged


async def test_a_cancelled_caller_leaves_the_store_in_order(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        callers = [asyncio.ensure_future(store.commit(Commit(state=state(n)))) for n in range(1, 301)]
        await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await store.commit(Commit(state=state(999)))
        assert store.state == state(999)


async def test_a_cancelled_store_finishes_what_was_handed_in(tmp_path: Path):
    opened = asyncio.Event()
    outcomes: list[asyncio.Future[tuple[int, ...]]] = []

    async def run() -> None:
        async with Store.opened(tmp_path) as store:
            outcomes.extend(
                asyncio.ensure_future(store.commit(Commit(state=state(n), appends=[outgoing(f"{n}")])))
                for n in range(1, 301)
            )
            await asyncio.sleep(0)
            opened.set()
            await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(run())
    await opened.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [await outcome for outcome in outcomes] == [(n,) for n in range(1, 301)]
    async with Store.opened(tmp_path) as store:
        assert store.state == state(300)


async def test_a_closed_store_says_so(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await store.commit(Commit(state=state(1)))
    with pytest.raises(StoreError, match="closed"):
        await store.registrations()


async def problem_at_opening(data_dir: Path) -> str:
    with pytest.raises(StoreError) as caught:
        async with Store.opened(data_dir):
            pass
    assert "\n" not in str(caught.value)
    assert str(data_dir) in str(caught.value)
    return caught.value.problem


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_database_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "mesh.db").write_bytes(content)
    assert "move it away" in await problem_at_opening(tmp_path)


async def test_a_damaged_database_is_refused_at_the_start(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        names = [f"service-{n}" for n in range(500)]
        await store.commit(Commit(state=state(1), upserts=[registration(name) for name in names]))
    path = tmp_path / "mesh.db"
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xa5" * (len(content) - 12288)
    path.write_bytes(content)
    assert "damaged" in await problem_at_opening(tmp_path)


async def test_a_database_of_a_newer_release_is_refused(tmp_path: Path):
    async with Store.opened(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "mesh.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "newer release" in await problem_at_opening(tmp_path)


async def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert await problem_at_opening(tmp_path / "file" / "data")
    (tmp_path / "mesh.db").mkdir()
    assert "cannot be opened" in await problem_at_opening(tmp_path)


READ_ONLY = """
import asyncio, os, sys
from pathlib import Path
from pmoves_mesh.errors import StoreError
from pmoves_mesh.store.store import Store

async def main():
    if os.geteuid() == 0:
        os.setgid(65534); os.setuid(65534)  # root may write anywhere
    try:
        async with Store.opened(Path(sys.argv[1])):
            print("opened")
    except StoreError as error:
        print(error.problem)

asyncio.run(main())
"""


def test_a_directory_that_this_user_cannot_write_is_refused(tmp_path: Path):
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o555)
    ran = subprocess.run(
        [sys.executable, "-c", READ_ONLY, directory], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout.startswith(("it cannot be opened", "Permission denied")), ran.stderr
    assert ran.stdout.count("\n") == 1


async def test_a_full_disk_fails_the_commit_in_one_line_and_nothing_else(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await store.commit(Commit(state=state(1), upserts=[registration("rag")]))
        await store._run(lambda: fill_up(store))
        large = Outgoing(sealed=SealedEvent(subject="s", payload=b"x" * 200_000))
        with pytest.raises(StoreError, match="disk is full"):
            await store.commit(Commit(state=state(2), appends=[large]))
        assert store.state == state(1)
        assert await store.registrations() == [registration("rag")]


def fill_up(store: Store) -> None:
    connection = store._journal._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


# Snapshots


async def test_a_snapshot_is_kept_until_the_next_one(tmp_path: Path):
    async with Store.opened(tmp_path) as store:
        await store.save_snapshot(5, "stream-a", b"first")
        await store.save_snapshot(7, "stream-b", b"second" * 100_000)
    async with Store.opened(tmp_path) as store:
        loaded = await store.load_snapshot()
        assert loaded is not None
        assert (loaded.position, loaded.stream_id, loaded.blob) == (7, "stream-b", b"second" * 100_000)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"payload") + 100] ^= 1
    path.write_bytes(content)


def write_as_newer_release(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def drop_the_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE snapshot")
    connection.close()


@pytest.mark.parametrize("spoil", [truncate, overwrite, flip_a_byte, write_as_newer_release, drop_the_table])
async def test_a_damaged_snapshot_is_set_aside_and_the_next_one_works(
    tmp_path: Path, spoil: Callable[[Path], None]
):
    path = tmp_path / "snapshot.db"
    async with Store.opened(tmp_path) as store:
        await store.save_snapshot(5, "stream", b"payload" * 20_000)
        spoil(path)
        with capture_logs() as logged:
            assert await store.load_snapshot() is None
        assert [line["event"] for line in logged] == ["snapshot set aside"]
        assert path.with_name("snapshot.db.damaged").exists()
        await store.save_snapshot(6, "stream", b"new")
        loaded = await store.load_snapshot()
        assert loaded is not None
        assert loaded.blob == b"new"


async def test_a_damaged_snapshot_does_not_keep_a_new_one_from_being_saved(tmp_path: Path):
    (tmp_path / "snapshot.db").write_bytes(b"no database" * 1000)
    async with Store.opened(tmp_path) as store:
        await store.save_snapshot(6, "stream", b"new")
        loaded = await store.load_snapshot()
        assert loaded is not None
        assert loaded.position == 6


async def test_a_snapshot_that_cannot_be_read_at_all_is_an_error(tmp_path: Path):
    (tmp_path / "snapshot.db").mkdir()
    async with Store.opened(tmp_path) as store:
        with pytest.raises(StoreError, match="cannot be opened"):
            await store.load_snapshot()
