"""`GET /api/watch`: first what matches, then every change of it, and back again after a break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from builders import announced, deregistered, instance, left, lost, registered
from event_reader import Reader, watching
from http_support import DEADLINE_S, HOST, NODE, Served, eventually, on_both_loops, served

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.event import NodeLost
from pmoves_mesh.core.query import Filter
from pmoves_mesh.views.http import broadcast, watches
from pmoves_mesh.views.http.app import build_app, serving
from pmoves_mesh.views.http.broadcast import Broadcast
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.watcher import Watcher
from pmoves_mesh.views.http.watches import WATCHES, Watches

BIG: dict[str, Any] = {"text": "x" * 15_000}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


async def watchers(mesh: Served, count: int) -> None:
    """Waits until so many watch, as the agent counts them."""

    async def so_many() -> bool:
        return mesh.watching == count

    await eventually(so_many, f"{count} watch")


def another(mesh: Served) -> Facade:
    """Returns what a second server for the same node stands on."""
    return replace(mesh.facade, readers={})


async def lose(mesh: Served, loss: NodeLost) -> None:
    """Lets a witness declare a node lost."""
    await mesh.replica.wait_position(mesh.publish(loss, by=loss.witness), DEADLINE_S)


async def begun(reader: Reader, *services: str) -> int:
    """Takes the snapshot, which shows these services, and returns its position."""
    first = await reader.next()
    assert first.name == "snapshot"
    assert first.data["count"] == len(services)
    assert [one["name"] for one in first.data["services"]] == list(services)
    return first.position


async def test_a_watcher_gets_what_matches_first_and_then_every_change(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as reader:
        assert reader.response.headers["Content-Type"] == "text/event-stream"
        assert await begun(reader, "rag") == 1
        await mesh.tell(registered(2, instance("whisper", "beta", health_status="healthy")))
        added = await reader.next()
        assert (added.name, added.position, added.key) == ("added", 2, ("whisper", "beta", "1"))
        assert added.data == (await mesh.get("/api/services?name=whisper")).body["services"][0]
        await mesh.tell(registered(3, instance("whisper", "beta", health_status="unhealthy")))
        changed = await reader.next()
        assert (changed.name, changed.position) == ("changed", 3)
        assert changed.data["health_status"] == "unhealthy"
        await mesh.tell(deregistered(4, instance("whisper", "beta")))
        removed = await reader.next()
        assert (removed.name, removed.position) == ("removed", 4)
        assert removed.data == {"name": "whisper", "node": "beta", "id": "1"}


async def test_a_local_registration_is_told_at_once_and_once(mesh: Served):
    async with watching(mesh.port) as reader:
        await begun(reader)
        await mesh.register(name="whisper", port=9000)
        assert await reader.names(1) == [("added", "whisper")]
        await mesh.register(name="rag", port=9001)
        assert await reader.names(1) == [("added", "rag")]


async def test_what_moves_without_news_is_not_told(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as reader:
        await begun(reader, "rag")
        await mesh.tell(
            registered(2, instance("rag", "beta", health_output="fine")), announced(3, node="beta")
        )
        await mesh.tell(registered(4, instance("whisper", "beta")))
        assert await reader.names(1) == [("added", "whisper")]


async def test_the_instances_of_a_node_change_when_it_is_lost_and_when_it_leaves(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as everything, watching(mesh.port, "?healthy_only=1") as healthy:
        await begun(everything, "rag")
        await begun(healthy)
        await mesh.tell(registered(2, instance("rag", "beta", health_status="healthy")))
        assert await everything.names(1) == [("changed", "rag")]
        assert await healthy.names(1) == [("added", "rag")]
        await lose(mesh, lost(2, "beta", NODE))
        assert (await everything.next()).data["node_status"] == "lost"
        assert await healthy.names(1) == [("removed", "rag")]
        await mesh.tell(left(3, "beta"))
        assert (await everything.next()).data["node_status"] == "left"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?name=rag", [("rag", "beta"), ("rag", "gamma")]),
        ("?node=gamma", [("rag", "gamma")]),
        ("?capability=gpu", [("tts", "beta")]),
        ("?capability=gpu&node=gamma", []),
        ("?healthy_only=true", [("rag", "gamma")]),
        ("?name=&node=", [("rag", "beta"), ("rag", "gamma"), ("tts", "beta")]),
    ],
)
async def test_a_filter_holds_for_what_matches_and_for_changes(
    mesh: Served, query: str, expected: list[tuple[str, str]]
):
    events = (
        registered(1, instance("rag", "beta")),
        registered(2, instance("tts", "beta", capabilities=("gpu", "stt"))),
        registered(1, instance("rag", "gamma", health_status="healthy")),
    )
    async with watching(mesh.port, query) as early:
        await begun(early)
        await mesh.tell(*events)
        async with watching(mesh.port, query) as late:
            snapshot = (await late.next()).data["services"]
        assert [(one["name"], one["node"]) for one in snapshot] == expected
        heard = [await early.next() for _ in expected]
        assert sorted((one.data["name"], one.data["node"]) for one in heard) == expected
        # Nothing else was told: the next event is this one.
        await mesh.tell(deregistered(3, instance("tts", "beta")), deregistered(2, instance("rag", "gamma")))
        await mesh.tell(deregistered(4, instance("rag", "beta")))
        removed = [await early.next() for _ in expected]
        assert {one.name for one in removed} <= {"removed"}


async def test_a_filter_that_nothing_can_match_is_refused(mesh: Served):
    answer = await mesh.get("/api/watch?mode=sideways")
    assert answer.status == 422
    assert answer.body["field"] == "mode"


async def test_whoever_comes_back_goes_on_where_it_was(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as reader:
        position = await begun(reader, "rag")
    await watchers(mesh, 0)
    await mesh.tell(
        registered(2, instance("tts", "beta")),
        registered(3, instance("llm", "beta")),
        deregistered(4, instance("llm", "beta")),
        deregistered(5, instance("rag", "beta")),
    )
    async with watching(mesh.port, after=position) as reader:
        heard = [await reader.next() for _ in range(2)]
        assert [(one.name, one.data["name"]) for one in heard] == [("added", "tts"), ("removed", "rag")]
        await mesh.tell(registered(6, instance("ocr", "beta")))
        assert await reader.names(1) == [("added", "ocr")]


async def test_a_connection_that_broke_amid_one_position_loses_nothing(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")), registered(2, instance("tts", "beta")))
    async with watching(mesh.port) as reader:
        await begun(reader, "rag", "tts")
        await lose(mesh, lost(2, "beta", NODE))
        first = await reader.next()
    async with watching(mesh.port, after=first.position) as reader:
        assert sorted(await reader.names(2)) == [("changed", "rag"), ("changed", "tts")]


async def test_a_position_that_is_too_old_begins_anew(mesh: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(broadcast, "RECENT_MAX", 2)
    async with watching(mesh.port) as reader:
        position = await begun(reader)
        for revision, name in enumerate(("a", "b", "c", "d"), 1):
            await mesh.tell(registered(revision, instance(name, "beta")))
            await reader.next()
    async with watching(mesh.port, after=position) as reader:
        assert await begun(reader, "a", "b", "c", "d") == 4
    async with watching(mesh.port, after=4) as reader:
        assert await reader.names(1) == [("added", "d")]


async def test_a_position_from_before_this_agent_watched_begins_anew(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")), registered(2, instance("tts", "beta")))
    async with watching(mesh.port, after=1) as reader:
        assert await begun(reader, "rag", "tts") == 2


async def test_a_position_that_this_agent_has_not_reached_is_waited_for(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as reader:
        await begun(reader, "rag")
        async with asyncio.TaskGroup() as group:
            coming = group.create_task(first_of(mesh, after=2))
            await mesh.tell(registered(2, instance("tts", "beta")))
        assert coming.result() == ("added", "tts")


async def first_of(mesh: Served, *, after: int) -> tuple[str, str]:
    async with watching(mesh.port, after=after) as reader:
        return (await reader.names(1))[0]


async def test_a_last_event_id_that_is_no_position_begins_anew(mesh: Served):
    for text in ("", "none", "-1", "9" * 40):
        async with (
            aiohttp.ClientSession() as session,
            session.get(url_of(mesh), headers={"Last-Event-ID": text}) as response,
        ):
            await begun(Reader(response))


def url_of(mesh: Served) -> str:
    return f"http://{HOST}:{mesh.port}/api/watch"


async def test_another_registry_in_the_place_of_this_one_is_told_as_its_differences(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")))
    async with watching(mesh.port) as reader:
        position = await begun(reader, "rag")
        await mesh.replica.restore_from_bucket(0, {})
        assert await reader.names(1) == [("removed", "rag")]
    assert mesh.replica.position < position or mesh.replica.is_current


async def test_a_replica_that_has_not_seen_the_mesh_shows_nobody_an_empty_registry(tmp_path: Path):
    async with served(tmp_path, connected=False) as alone:
        answer = await alone.get("/api/watch")
        assert answer.status == 503
        await alone.register("/api/services?wait=none", name="rag", port=9000)
        async with watching(alone.port) as reader:
            await begun(reader, "rag")
            await alone.register("/api/services?wait=none", name="tts", port=9000)
            assert await reader.names(1) == [("added", "tts")]


async def test_a_comment_shows_a_quiet_watcher_that_the_connection_lives(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    assert watches.COMMENT_S == 15
    monkeypatch.setattr(watches, "COMMENT_S", 0.05)
    async with serving(another(mesh), HOST, 0) as port, watching(port) as reader:
        await begun(reader)

        async def quiet() -> None:
            await reader.next()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(quiet(), 0.4)
        assert len(reader.comments) >= 3
        assert set(reader.comments) == {"position 0"}
        assert 1000 <= (reader.retry_ms or 0) <= 3000


async def test_the_head_of_a_watch_ends_at_once(mesh: Served):
    answer = await mesh.ask("HEAD", "/api/watch")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"


async def test_a_watcher_that_speaks_http_1_0_gets_events_without_chunks(mesh: Served):
    async with watching(mesh.port):  # another, so that both kinds are told at once
        reader, writer = await asyncio.open_connection(HOST, mesh.port)
        writer.write(b"GET /api/watch HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b'"services":[]}\n\n'), DEADLINE_S)
        await mesh.tell(registered(1, instance("rag", "beta")))
        event = await asyncio.wait_for(reader.readuntil(b"\n\n"), DEADLINE_S)
        assert event.startswith(b"event: added\nid: 1\ndata: {")
        writer.close()


async def test_a_watcher_that_goes_away_is_forgotten_at_once(mesh: Served):
    async with watching(mesh.port) as one:
        await begun(one)
        async with watching(mesh.port, "?name=rag") as two:
            await begun(two)
            await watchers(mesh, 2)
        await watchers(mesh, 1)
    await watchers(mesh, 0)


async def test_whoever_watches_is_told_that_the_agent_stops(mesh: Served):
    begin_s = SystemClock().monotonic_s()
    async with AsyncExitStack() as stack:
        async with serving(another(mesh), HOST, 0) as port:
            reader = await stack.enter_async_context(watching(port))
            await begun(reader)
        heard = await reader.rest()
    assert [(one.name, one.position, one.data) for one in heard] == [("end", 0, {"reason": "stopping"})]
    assert SystemClock().monotonic_s() - begin_s < 5


async def test_more_watchers_than_the_bound_are_sent_away(mesh: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.views.http.watch.WATCHERS_MAX", 1)
    async with watching(mesh.port) as reader:
        await begun(reader)
        answer = await mesh.get("/api/watch")
        assert answer.status == 503
        assert "Retry-After" in answer.headers


async def overwhelm(mesh: Served, quick: Reader) -> int:
    """Changes an instance until only one watcher is left; returns how often that was."""
    revision = 0
    while mesh.watching == 2:
        revision += 1
        await mesh.tell(registered(revision, instance("rag", "beta", port=revision, metadata=BIG)))
        assert (await quick.next()).data["port"] == revision
        assert revision < 3000, "what waits for a slow watcher grows without end"
    return revision


async def test_a_slow_watcher_is_dropped_with_a_final_event(mesh: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.views.http.watch._BEHIND_S", 0.1)
    async with watching(mesh.port) as quick, watching(mesh.port, read_bufsize=2**12) as slow:
        await begun(quick)
        await begun(slow)
        await watchers(mesh, 2)
        revision = await overwhelm(mesh, quick)
        heard = await slow.rest()
        last = heard.pop()
        assert (last.name, last.data) == ("end", {"reason": "slow"})
        assert last.position == heard[-1].position
        assert [one.data["port"] for one in heard] == list(range(1, len(heard) + 1))
        async with watching(mesh.port, after=last.position) as back:
            assert (await back.next()).data["port"] == revision


async def test_a_watcher_that_was_behind_is_told_how_things_are_by_then_and_goes_on(mesh: Served):
    async with watching(mesh.port) as quick, watching(mesh.port, read_bufsize=2**12) as slow:
        await begun(quick)
        await begun(slow)
        for revision in range(1, 2001):
            await mesh.tell(registered(revision, instance("rag", "beta", port=revision, metadata=BIG)))
            assert (await quick.next()).data["port"] == revision
        heard = [(await slow.next()).data["port"]]
        while heard[-1] != 2000:
            heard.append((await slow.next()).data["port"])
        assert heard == sorted(set(heard))
        assert len(heard) < 2000
        await mesh.tell(registered(2001, instance("rag", "beta", port=2001)))
        assert (await slow.next()).data["port"] == 2001


async def test_a_watcher_that_does_not_take_the_snapshot_is_cut_off_and_sees_no_broken_event(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.views.http.watch._BEGIN_S", 0.3)
    every = (registered(n, instance("rag", "beta", str(n), metadata=BIG)) for n in range(1, 1501))
    await mesh.tell(*every)
    async with watching(mesh.port, read_bufsize=2**12) as slow:
        await watchers(mesh, 1)
        await watchers(mesh, 0)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await slow.next()


async def test_a_watcher_that_is_behind_more_than_is_remembered_is_dropped(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(broadcast, "RECENT_MAX", 2)
    async with watching(mesh.port) as quick, watching(mesh.port, read_bufsize=2**12) as slow:
        await begun(quick)
        await begun(slow)
        for revision in range(1, 1501):
            await mesh.tell(registered(revision, instance("rag", "beta", port=revision, metadata=BIG)))
            assert (await quick.next()).data["port"] == revision
        heard = await slow.rest()
        assert heard[-1].data == {"reason": "slow"}


async def test_a_node_with_thousands_of_instances_is_lost_without_losing_a_watcher(mesh: Served):
    count = 3000
    await mesh.tell(*(registered(n, instance("rag", "beta", str(n), port=n)) for n in range(1, count + 1)))
    async with watching(mesh.port) as reader:
        assert (await reader.next()).data["count"] == count
        await lose(mesh, lost(count, "beta", NODE))
        heard = [await reader.next() for _ in range(count)]
    assert {one.data["node_status"] for one in heard} == {"lost"}
    assert len({one.key for one in heard}) == count


async def test_a_slow_watcher_that_never_reads_again_is_cut_off(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.views.http.watch._BEHIND_S", 0.1)
    monkeypatch.setattr("pmoves_mesh.views.http.watch._FAREWELL_S", 0)
    async with watching(mesh.port) as quick, watching(mesh.port, read_bufsize=2**12) as slow:
        await begun(quick)
        await begun(slow)
        await watchers(mesh, 2)
        await overwhelm(mesh, quick)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await slow.rest()


class Wire(asyncio.Transport):
    """A connection that takes whatever is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


@asynccontextmanager
async def wire_to_somebody() -> AsyncIterator[asyncio.Transport]:
    """Gives a real connection, as a server sees it."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue(1)
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), HOST, 0)
    async with server:
        _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield (await accepted.get()).transport
        client.close()


@on_both_loops
async def test_one_that_goes_while_all_are_told_keeps_no_other_from_being_told(tmp_path: Path):
    async with served(tmp_path) as mesh, wire_to_somebody() as transport:
        watched, wire = build_app(another(mesh))[WATCHES], Wire()
        gone, stays = Watcher(transport, chunked=False), Watcher(wire, chunked=False)

        async def told_of_both() -> bool:
            return b'"rag"' in wire.written and b'"tts"' in wire.written

        with watched.following():
            async with watched.using(Filter()) as everything:
                with watched.told(everything, gone), watched.told(everything, stays):
                    gone.live = stays.live = True
                    await mesh.tell(registered(1, instance("rag", "beta")))
                    transport.abort()
                    await mesh.tell(registered(2, instance("tts", "beta")))
                    await eventually(told_of_both, "the other is told of all that comes")
        with pytest.raises(ConnectionError):
            gone.write(b"more")


async def test_a_watcher_that_was_caught_up_with_is_not_told_again_what_was_on_its_way(mesh: Served):
    watched = build_app(another(mesh))[WATCHES]
    wire = Wire()
    watcher = Watcher(wire, chunked=False)

    async def told_of_both() -> bool:
        return b'"tts"' in wire.written

    with watched.following():
        async with watched.using(Filter()) as everything:
            with watched.told(everything, watcher):
                watched.begin(everything, watcher, None)
                await mesh.tell(registered(1, instance("rag", "beta")))
                watcher.write(watched.catch_up(everything, watcher))
                watcher.live = True
                await mesh.tell(registered(2, instance("tts", "beta")))
                await eventually(told_of_both, "it is told of what came after")
    assert wire.written.count(b"event: added") == 2


async def test_a_change_is_encoded_once_for_all_watchers_with_one_filter(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    encoded = []
    original = broadcast.events.of_differences

    def counted(*arguments: Any) -> bytes:
        frame = original(*arguments)
        encoded.append(frame)
        return frame

    monkeypatch.setattr(broadcast.events, "of_differences", counted)
    queries = ["?name=rag"] * 20 + ["?name=tts"] * 20
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(first_of_many(mesh, query)) for query in queries]
        await watchers(mesh, 40)
        await mesh.tell(registered(1, instance("rag", "beta")), registered(2, instance("tts", "beta")))
    assert sorted(task.result() for task in tasks) == ["rag"] * 20 + ["tts"] * 20
    assert len([frame for frame in encoded if frame]) == 2


async def first_of_many(mesh: Served, query: str) -> str:
    async with watching(mesh.port, query) as reader:
        await begun(reader)
        name: str = (await reader.next()).data["name"]
        return name


async def test_filters_that_nobody_uses_are_forgotten_beyond_a_bound(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watches, "_IDLE_MAX", 2)
    watched = build_app(another(mesh))[WATCHES]
    async with watched.using(Filter(name="kept")) as kept:
        made = {name: await used(watched, name) for name in ("a", "b", "c")}
        assert await used(watched, "kept") is kept
        assert await used(watched, "c") is made["c"]
        assert await used(watched, "a") is not made["a"]


async def used(watched: Watches, name: str) -> Broadcast:
    async with watched.using(Filter(name=name)) as made:
        return made
