"""What applications tell is kept and followed: on real servers, by real agents, programs and readers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from log_support import DEADLINE_S, connected
from msgspec import Struct
from nats_server import NatsServer
from plain_nats import plain_client
from ports import free_port
from secured import SecuredMesh

from pmoves_mesh import FileAdded, ToolExecuted, TranscriptReady
from pmoves_mesh import Mesh as Program
from pmoves_mesh.config import load
from pmoves_mesh.core.application import KINDS, Retention
from pmoves_mesh.errors import LogUnavailable, RightMissing
from pmoves_mesh.log import api
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.application import Standing, ensure, keepers, standings
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.tail import Heard, kept
from pmoves_mesh.sdk.messages import Message

SUBJECT = "ingest.file.added.v1"
BRIEF = Retention(max_age_s=3600, max_bytes=1 << 20)
AS_SENT = (
    b'{ "id": "1", "topic": "ingest.file.added.v1", "ts": "2025-12-06T12:00:00+00:00Z",'
    b'\n "payload": {"key": "a"}}'
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


async def config_of(connection: Connection, stream: str) -> dict[str, Any]:
    return (await call(connection.session(), f"STREAM.INFO.{stream}", StreamInfo)).config


async def make(connection: Connection, stream: str, *subjects: str) -> None:
    body = {"name": stream, "subjects": list(subjects)}
    await call(connection.session(), f"STREAM.CREATE.{stream}", StreamInfo, body)


async def tell(connection: Connection, subject: str, payload: bytes) -> int:
    return await api.publish(connection.session(), subject, payload, {})


async def first(
    count: int, connection: Connection, streams: list[str], pattern: str, since_ms: int | None
) -> list[Heard]:
    found: list[Heard] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        aclosing(kept(connection, streams, pattern, since_ms)) as messages,
    ):
        async for heard in messages:
            found.append(heard)
            if len(found) == count:
                break
    return found


# The streams


async def test_each_subject_has_a_stream_for_itself_with_the_retention_of_the_settings(
    nats_server: NatsServer,
):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        found = await ensure(connection, "lab", BRIEF)
        assert [(one.subject, one.stream, one.ours) for one in found] == [
            (kind.subject, kind.stream, True) for kind in KINDS
        ]
        for kind in KINDS:
            config = await config_of(connection, kind.stream)
            assert config["subjects"] == [kind.subject]
            assert (config["max_age"], config["max_bytes"]) == (3600 * 10**9, 1 << 20)
            assert (config["storage"], config["metadata"]["mesh"]) == ("file", "lab")
        assert await standings(connection, "lab") == found


async def test_another_retention_is_taken_over_and_what_is_kept_stays(nats_server: NatsServer):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await ensure(connection, "lab", BRIEF)
        await tell(connection, SUBJECT, b"{}")
        await ensure(connection, "lab", Retention(max_age_s=7200, max_bytes=2 << 20))
        info = await call(connection.session(), "STREAM.INFO.INGEST_FILE_ADDED", StreamInfo)
        assert (info.config["max_age"], info.config["max_bytes"]) == (7200 * 10**9, 2 << 20)
        assert info.state.messages == 1


@pytest.mark.parametrize(
    ("stream", "subjects"), [("INGEST", ("ingest.>",)), ("INGEST_FILE_ADDED", (SUBJECT, "other.subject"))]
)
async def test_a_stream_that_is_there_already_is_named_and_left(
    nats_server: NatsServer, stream: str, subjects: tuple[str, ...]
):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await make(connection, stream, *subjects)
        before = await config_of(connection, stream)
        found = {one.subject: one for one in await ensure(connection, "lab", BRIEF)}
        assert found[SUBJECT] == Standing(subject=SUBJECT, stream=stream, ours=False)
        assert found["claude.code.tool.executed.v1"].ours
        assert await config_of(connection, stream) == before


async def test_messages_are_kept_byte_for_byte_and_followed_in_the_order_of_time(nats_server: NatsServer):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await ensure(connection, "lab", BRIEF)
        sent = [
            (SUBJECT, AS_SENT),
            ("ingest.transcript.ready.v1", b"\xff not JSON"),
            ("claude.code.tool.executed.v1", b"{}"),
            (SUBJECT, b""),
        ]
        for subject, payload in sent:
            await tell(connection, subject, payload)
        streams = await keepers(connection, ">")
        found = await first(3, connection, [kind.stream for kind in KINDS], "ingest.>", 0)
        assert [(heard.subject, heard.payload) for heard in found] == [
            one for one in sent if one[0].startswith("ingest.")
        ]
        assert {kind.stream for kind in KINDS} <= set(streams)


async def test_following_goes_on_after_the_server_was_restarted_and_repeats_nothing(nats_server: NatsServer):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await ensure(connection, "lab", BRIEF)
        await tell(connection, SUBJECT, b"1")
        async with (
            asyncio.timeout(30),
            aclosing(kept(connection, ["INGEST_FILE_ADDED"], "ingest.>", 0)) as tail,
        ):
            assert (await anext(tail)).payload == b"1"
            following = asyncio.ensure_future(anext(tail))
            await asyncio.to_thread(nats_server.restart)
            async with connected(NatsSettings(servers=(nats_server.url,))) as other:
                await tell(other, SUBJECT, b"2")
            assert (await following).payload == b"2"


class Consumers(Struct):
    """How many follow a stream."""

    consumer_count: int = 0


class Followed(Struct):
    """A stream, as far as it is of interest here."""

    state: Consumers


class Delayed:
    """A connection that is back after a break only once it may be."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = 0
        self.may_return = asyncio.Event()

    async def next_session(self) -> Session:
        self._asked += 1
        if self._asked > 1:
            await self.may_return.wait()
        return await self._connection.next_session()


async def test_what_is_told_in_a_break_is_heard_by_who_had_heard_nothing_before_it(nats_server: NatsServer):
    stream = "INGEST_FILE_ADDED"
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await ensure(connection, "lab", BRIEF)
        await tell(connection, SUBJECT, b"before")
        delayed = Delayed(connection)
        tail = kept(delayed, [stream], SUBJECT, None)  # type: ignore[arg-type]
        async with asyncio.timeout(30), aclosing(tail):
            following = asyncio.ensure_future(anext(tail))
            followers = 0
            while not followers:
                info = await call(connection.session(), f"STREAM.INFO.{stream}", Followed)
                followers = info.state.consumer_count
            await asyncio.to_thread(nats_server.restart)
            async with connected(NatsSettings(servers=(nats_server.url,))) as other:
                await tell(other, SUBJECT, b"in the break")
            delayed.may_return.set()
            assert (await following).payload == b"in the break"


async def test_who_lacks_a_right_makes_no_stream_and_says_so(tmp_path: Path):
    users = (
        'users = [{user: a, password: a, permissions: {publish: ["$JS.API.STREAM.INFO.>"], subscribe: ">"}}]'
    )
    with NatsServer(tmp_path, config_extra=f"authorization {{ {users} }}") as server:
        settings = NatsSettings(servers=(server.url,), user="a", password="a")
        async with connected(settings) as connection:
            assert [one.stream for one in await ensure(connection, "lab", BRIEF)] == ["", "", ""]


# Agents and programs


def test_an_agent_makes_them_by_its_settings_and_logs_whose_stream_it_leaves(mesh: Mesh):
    async def prepare() -> None:
        async with connected(NatsSettings(servers=(mesh.server.url,))) as connection:
            await make(connection, "TOOLS", "claude.code.>")

    async def found() -> dict[str, Any]:
        async with connected(NatsSettings(servers=(mesh.server.url,))) as connection:
            return await config_of(connection, "INGEST_TRANSCRIPT_READY")

    asyncio.run(prepare())
    alpha = mesh.started("alpha", PMOVES_EVENTS_MAX_AGE_S="120", PMOVES_EVENTS_MAX_BYTES=str(3 << 20))
    eventually(lambda: bool(alpha.logged("streams of another making are left as they are")), "it says so")
    (line,) = alpha.logged("streams of another making are left as they are")
    assert line["detail"] == "TOOLS keeps claude.code.tool.executed.v1"
    config = asyncio.run(found())
    assert (config["max_age"], config["max_bytes"]) == (120 * 10**9, 3 << 20)


async def test_a_program_tells_an_event_once_and_another_reads_it_typed(mesh: Mesh):
    alpha = await asyncio.to_thread(mesh.started, "alpha")
    config = load({**alpha.environment, "SERVICE_REGISTRY_URL": alpha.url}, alpha.directory)
    transcript = TranscriptReady(video_id="v1", language="en", word_count=3)
    async with Program.connect(config=config) as program, program.register("whisper", port=9000):
        positions = [await program.record(FileAdded(file_id="f1")), await program.record(transcript)]
        assert positions == [1, 1]
        assert await program.record(ToolExecuted(tool="Bash"), source="hook") == 1
        assert (await program.record(FileAdded(file_id="f2"))) == 2
    async with connected(NatsSettings(servers=(mesh.server.url,))) as connection:
        (found,) = await first(1, connection, ["INGEST_TRANSCRIPT_READY"], "ingest.>", 0)
    told = Message(subject=found.subject, payload=found.payload).told()
    assert told.event == transcript
    assert (told.source, told.topic, told.version) == ("whisper", "ingest.transcript.ready.v1", "v1")
    assert len(told.id) == 36


async def test_a_program_is_told_that_nothing_keeps_what_it_tells(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.sdk.messages._RECORD_S", 0.3)
    config = load({"NATS_URL": nats_server.url, "SERVICE_REGISTRY_URL": "http://127.0.0.1:1"}, tmp_path)
    monkeypatch.setattr("pmoves_mesh.sdk.mesh._KNOWN_S", 0.1)
    async with Program.connect(config=config) as program:
        with pytest.raises(LogUnavailable, match="no stream takes ingest"):
            await program.record(FileAdded(file_id="f1"))


async def test_on_a_secured_mesh_nodes_and_services_tell_and_nodes_alone_read(tmp_path: Path):
    mesh = SecuredMesh(tmp_path)
    edge, whisper = mesh.party("edge"), mesh.party("whisper", "service")
    port = free_port()
    server = mesh.server(port, mesh.access())
    await server.start()
    try:
        async with mesh.connected(mesh.owner, port, api_prefix="$JS.API.") as connection:
            assert all(one.ours for one in await ensure(connection, mesh.mesh, BRIEF))
        async with mesh.connected(edge, port) as connection:
            assert await tell(connection, SUBJECT, b"from a node") == 1
            assert [one.ours for one in await ensure(connection, mesh.mesh, BRIEF)] == [True] * 3
        async with mesh.connected(whisper, port) as connection:
            assert await tell(connection, SUBJECT, b"from a service") == 2
            with pytest.raises((RightMissing, LogUnavailable)):
                await call(connection.session(), "STREAM.INFO.INGEST_FILE_ADDED", StreamInfo)
        async with mesh.connected(edge, port) as connection:
            streams = await keepers(connection, "ingest.>")
            found = await first(2, connection, streams, "ingest.>", 0)
            assert [heard.payload for heard in found] == [b"from a node", b"from a service"]
            with pytest.raises((RightMissing, LogUnavailable)):
                await call(connection.session(), "STREAM.DELETE.INGEST_FILE_ADDED", StreamInfo)
    finally:
        await server.stop()


# events tail


@contextmanager
def tailing(agent: AgentProcess, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*agent.program, "events", "tail", *arguments],
        cwd=agent.directory,
        env=agent.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def publish(agent: AgentProcess, *messages: tuple[str, bytes]) -> None:
    """Publishes as any program of NATS does."""

    async def run() -> None:
        async with plain_client(agent.environment["NATS_URL"]) as client:
            for subject, payload in messages:
                await client.publish(subject, payload)
            await client.flush()

    asyncio.run(run())


def kept_messages(mesh: Mesh, stream: str) -> int:
    async def count() -> int:
        async with connected(NatsSettings(servers=(mesh.server.url,))) as connection:
            return (await call(connection.session(), f"STREAM.INFO.{stream}", StreamInfo)).state.messages

    return asyncio.run(count())


def until(process: subprocess.Popen[str], act: Callable[[], None]) -> list[str]:
    """Acts again and again until the first line comes, and returns it with those that had come by then."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    raw = b""

    def heard() -> bool:
        nonlocal raw
        act()
        try:
            raw += os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        return raw.endswith(b"\n")

    eventually(heard, "something is heard")
    os.set_blocking(descriptor, True)
    return raw.decode().splitlines()


def test_tail_shows_each_message_as_it_comes_until_it_is_interrupted(mesh: Mesh):
    alpha = mesh.started("alpha")
    with tailing(alpha, "ingest.>") as process:
        said = until(process, lambda: publish(alpha, ("ingest.other.v1", b'{"number": 1}')))
        time, subject, payload = said[0].split("  ")
        assert time.endswith("Z")
        assert (subject, payload) == ("ingest.other.v1", '{"number": 1}')
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read().strip() == ""


def test_tail_since_shows_what_was_kept_and_then_what_comes_as_json_that_was_not_touched(mesh: Mesh):
    alpha = mesh.started("alpha")
    eventually(lambda: _made(mesh), "the streams are made")
    # Two streams take what comes at once each in its own time, and it is told in theirs.
    publish(alpha, (SUBJECT, AS_SENT))
    eventually(lambda: kept_messages(mesh, "INGEST_FILE_ADDED") == 1, "the first is kept")
    publish(alpha, ("ingest.transcript.ready.v1", b"\xff\x00"), ("ingest.other.v1", b"{}"))
    eventually(lambda: kept_messages(mesh, "INGEST_TRANSCRIPT_READY") == 1, "both are kept")
    with tailing(alpha, "ingest.>", "--since", "1h", "--json") as process:
        was, odd = lines(process, 2)
        assert AS_SENT.decode().replace("\n", " ") in was
        found = json.loads(was)
        assert found.keys() == {"time", "subject", "stream", "position", "payload"}
        assert (found["stream"], found["position"]) == ("INGEST_FILE_ADDED", 1)
        assert found["payload"] == json.loads(AS_SENT)
        assert json.loads(odd)["payload_base64"] == "/wA="
        publish(alpha, (SUBJECT, b"[2]"))
        (comes,) = lines(process, 1)
        assert json.loads(comes)["payload"] == [2]


def _made(mesh: Mesh) -> bool:
    async def found() -> bool:
        async with connected(NatsSettings(servers=(mesh.server.url,))) as connection:
            return all(one.ours for one in await standings(connection, "pmoves-mesh"))

    return asyncio.run(found())


def test_a_pipe_that_ends_ends_tail_quietly_even_where_nothing_more_comes(mesh: Mesh):
    alpha = mesh.started("alpha")
    with tailing(alpha, "ingest.>") as process:
        until(process, lambda: publish(alpha, ("ingest.other.v1", b"{}")))
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_message_cannot_steer_the_terminal(mesh: Mesh):
    alpha = mesh.started("alpha")
    with tailing(alpha, "ingest.>") as process:
        said = until(process, lambda: publish(alpha, ("ingest.other.v1", b"\x1b[2J\nnext")))
    assert said[0].endswith("ingest.other.v1  \\x1b[2J\\nnext")


@pytest.mark.parametrize("subject", ["", "a..b", "a b", "a.>.b"])
def test_what_is_no_subject_is_wrong_usage(mesh: Mesh, subject: str):
    done = mesh.agent("alpha").run("events", "tail", subject)
    assert done.returncode == 2
    assert "is no subject of NATS" in done.stderr


def test_since_on_a_subject_that_no_stream_keeps_fails_in_one_line(mesh: Mesh):
    done = mesh.agent("alpha").run("events", "tail", "other.>", "--since", "1h")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pmoves-mesh: no stream keeps what is told on other.>; leave out --since to hear what comes\n"
    )


def test_without_nats_tail_fails_in_one_line(mesh: Mesh):
    mesh.server.kill()
    done = mesh.agent("alpha").run("events", "tail", "ingest.>")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be reached" in done.stderr
