"""What happens to the log when the nats-server goes away, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path

import pytest
from log_support import (
    CA,
    DEADLINE_S,
    MESH,
    connected,
    event,
    eventually,
    in_chunks,
    read_until,
    read_until_current,
)
from nats_server import NatsServer
from ports import free_port

from pmoves_mesh.errors import LogError, LogUnavailable, SequenceGap
from pmoves_mesh.log import api
from pmoves_mesh.log import session as session_module
from pmoves_mesh.log.api import Done, StreamInfo, call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import EVENTS, REGISTRY, ensure

BOTH_FLAVOURS = pytest.mark.parametrize("nats_server", ["wheel", "container"], indirect=True)


async def publish_stubbornly(log: NatsEventLog, number: int) -> int:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await log.publish(event(number))
            except LogUnavailable:
                await asyncio.sleep(0.02)


async def is_disconnected(connection: Connection) -> bool:
    return not connection.connected


@BOTH_FLAVOURS
async def test_a_tail_survives_a_killed_server_and_is_soon_current_with_nothing_lost_or_doubled(
    nats_server: NatsServer, connection: Connection
) -> None:
    log = NatsEventLog(connection)
    for number in range(100):
        await log.publish(event(number))
    async with contextlib.aclosing(log.tail(0)) as tail:
        messages = await read_until(tail, 100)
        await asyncio.to_thread(nats_server.kill)
        async with asyncio.timeout(DEADLINE_S):
            assert (await anext(tail)).pending is None
        await asyncio.to_thread(nats_server.restart)
        answered = time.perf_counter()
        await read_until_current(tail)
        await publish_stubbornly(log, 100)
        messages += await read_until(tail, 101)
        assert time.perf_counter() - answered < 5
    assert [message.position for message in messages] == list(range(1, 102))
    assert [message.sealed for message in messages] == [event(number) for number in range(101)]
    assert connection.generation >= 2


async def test_events_published_through_kills_arrive_once_each(
    nats_server: NatsServer, connection: Connection
) -> None:
    log = NatsEventLog(connection)

    async def publish_all() -> None:
        for number in range(300):
            await publish_stubbornly(log, number)

    async with asyncio.TaskGroup() as group, contextlib.aclosing(log.tail(0)) as tail:
        group.create_task(publish_all())
        messages = await read_until(tail, 100)
        await asyncio.to_thread(nats_server.restart)
        messages += await read_until(tail, 200)
        await asyncio.to_thread(nats_server.restart)
        messages += await read_until(tail, 300)
    assert [message.sealed for message in messages] == [event(number) for number in range(300)]
    assert [message.position for message in messages] == list(range(1, 301))


async def test_everything_fails_at_once_with_one_line_while_the_server_is_down(
    nats_server: NatsServer, connection: Connection
) -> None:
    log, bucket, queue = NatsEventLog(connection), NatsBucket(connection, REGISTRY), NatsWorkQueue(connection)
    nats_server.kill()
    await eventually(lambda: is_disconnected(connection))
    begin = time.perf_counter()
    for call_ in (
        lambda: log.publish(event(1)),
        log.bounds,
        lambda: bucket.get("node.a"),
        lambda: bucket.put("node.a", b""),
        lambda: bucket.delete("node.a"),
        bucket.keys,
        lambda: queue.fetch(1, 5),
        queue.floor,
        lambda: connection.publish_core("some.subject", b""),
    ):
        with pytest.raises(LogUnavailable) as caught:
            await call_()
        assert "\n" not in str(caught.value)
    assert time.perf_counter() - begin < 2
    assert not log.connected
    assert isinstance(connection.problem, LogUnavailable)


async def test_a_publish_under_way_ends_when_the_server_dies(
    nats_server: NatsServer, connection: Connection
) -> None:
    nats_server.pause()
    publishing = asyncio.ensure_future(NatsEventLog(connection).publish(event(1)))
    await asyncio.sleep(0)
    nats_server.kill()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(LogUnavailable):
            await publishing


async def test_a_server_that_falls_silent_is_noticed_and_followed_again(
    nats_server: NatsServer, connection: Connection
) -> None:
    log = NatsEventLog(connection)
    await log.publish(event(1))
    async with contextlib.aclosing(log.tail(0)) as tail:
        await read_until(tail, 1)
        nats_server.pause()
        async with asyncio.timeout(DEADLINE_S):
            while (await anext(tail)).pending is not None:
                pass
        await eventually(lambda: is_disconnected(connection))
        nats_server.resume()
        await publish_stubbornly(log, 2)
        assert [message.sealed for message in await read_until(tail, 2)] == [event(2)]


async def test_a_server_that_is_given_longer_for_an_answer_may_be_silent_for_as_long(
    nats_server: NatsServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.connected
    monkeypatch.setattr(session_module, "_PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(session_module, "_PING_TIMEOUT_S", 0.1)
    async with connected(NatsSettings(servers=(nats_server.url,))) as patient:
        nats_server.pause()
        verb = f"STREAM.INFO.{EVENTS}"
        asking = asyncio.create_task(call(patient.session(), verb, StreamInfo, timeout_s=DEADLINE_S))
        await asyncio.wait((asking,), timeout=0.6)
        nats_server.resume()
        assert (await asking).state.messages == 0
        assert patient.generation == 1


async def test_an_agent_can_start_while_the_server_is_away(tmp_path: Path) -> None:
    port = free_port()
    async with Connection(NatsSettings(servers=(f"nats://127.0.0.1:{port}",))) as connection:
        assert not connection.connected
        with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1"):
            await connection.wait_connected(0.3)
        log = NatsEventLog(connection)
        async with contextlib.aclosing(log.tail(0)) as tail:
            assert (await anext(tail)).pending is None
            with NatsServer(tmp_path, port=port):
                await connection.wait_connected(DEADLINE_S)
                await ensure(connection, MESH, CA)
                await log.publish(event(1))
                assert [message.position for message in await read_until(tail, 1)] == [1]


async def test_another_server_of_the_list_is_used_when_one_is_away(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        settings = NatsSettings(servers=(f"nats://127.0.0.1:{free_port()}", server.url))
        async with connected(settings) as connection:
            assert connection.server_url == server.url


async def test_the_work_queue_goes_on_after_a_restart(
    nats_server: NatsServer, connection: Connection
) -> None:
    log, queue = NatsEventLog(connection), NatsWorkQueue(connection)
    await log.publish(event(1))
    (first,) = await queue.fetch(10, 5)
    await first.ack()
    await asyncio.to_thread(nats_server.restart)
    await publish_stubbornly(log, 2)
    seen: set[int] = set()
    async with asyncio.timeout(DEADLINE_S):
        while 2 not in seen:
            with contextlib.suppress(LogUnavailable):
                for delivery in await queue.fetch(10, 0.5):
                    seen.add(delivery.message.position)
                    await delivery.ack()


async def test_an_acknowledgement_through_a_lost_session_is_refused(
    nats_server: NatsServer, connection: Connection
) -> None:
    log, queue = NatsEventLog(connection), NatsWorkQueue(connection)
    await log.publish(event(1))
    (delivery,) = await queue.fetch(1, 5)
    nats_server.kill()
    await eventually(lambda: is_disconnected(connection))
    with pytest.raises(LogUnavailable):
        await delivery.ack()


async def test_a_stream_made_anew_ends_the_tail_with_a_gap(connection: Connection) -> None:
    log = NatsEventLog(connection)
    for number in range(3):
        await log.publish(event(number))
    async with contextlib.aclosing(log.tail(0)) as tail:
        await read_until(tail, 3)
        await call(connection.session(), f"STREAM.DELETE.{EVENTS}", Done)
        await ensure(connection, MESH, CA)
        with pytest.raises(SequenceGap) as caught:
            await read_until(tail, 4)
        assert caught.value.held == 3
    with pytest.raises(SequenceGap):
        await anext(log.tail(3))


async def test_a_stream_that_is_gone_ends_the_tail_with_one_line(connection: Connection) -> None:
    log = NatsEventLog(connection)
    async with contextlib.aclosing(log.tail(0)) as tail:
        await read_until_current(tail)
        await call(connection.session(), f"STREAM.DELETE.{EVENTS}", Done)
        with pytest.raises(LogError, match="MESH_EVENTS is gone"):
            await read_until(tail, 1)
    with pytest.raises(LogError, match="MESH_EVENTS is gone"):
        await log.bounds()


async def test_what_is_pending_may_expire_and_the_tail_is_current_all_the_same(
    connection: Connection,
) -> None:
    log = NatsEventLog(connection)
    await in_chunks([partial(log.publish, event(number)) for number in range(500)])
    await in_chunks([partial(log.publish, event(number), ttl_s=1) for number in range(500, 1000)])
    async with contextlib.aclosing(log.tail(0)) as tail:
        batch = await anext(tail)
        assert batch.messages

        async def gone() -> bool:
            found = await call(connection.session(), f"STREAM.INFO.{EVENTS}", StreamInfo)
            return found.state.messages == 500

        await eventually(gone)
        messages = [*batch.messages, *await read_until_current(tail)]
    assert [message.position for message in messages][:500] == list(range(1, 501))


async def test_a_slow_reader_of_a_large_backlog_loses_nothing(connection: Connection) -> None:
    log = NatsEventLog(connection)
    count = 4000
    await in_chunks([partial(log.publish, event(number)) for number in range(count)])
    positions: list[int] = []
    async with contextlib.aclosing(log.tail(0)) as tail, asyncio.timeout(60):
        async for batch in tail:
            positions.extend(message.position for message in batch.messages)
            if len(positions) < 3000:
                await asyncio.sleep(0.05)
            if batch.pending == 0:
                break
    assert positions == list(range(1, count + 1))


@BOTH_FLAVOURS
async def test_core_messages_reach_a_subscriber_also_after_a_restart(
    nats_server: NatsServer, connection: Connection
) -> None:
    received: set[bytes] = set()

    async def listen() -> None:
        async with contextlib.aclosing(connection.subscribe_core("services.>")) as messages:
            async for subject, payload in messages:
                assert subject == "services.announce.v1"
                received.add(payload)

    async def arrives(payload: bytes) -> bool:
        with contextlib.suppress(LogUnavailable):
            await connection.publish_core("services.announce.v1", payload)
        return payload in received

    listener = asyncio.create_task(listen())
    try:
        await eventually(lambda: arrives(b"before"))
        await asyncio.to_thread(nats_server.restart)
        await eventually(lambda: arrives(b"after"))
    finally:
        listener.cancel()
        await asyncio.wait((listener,))
    assert connection.generation >= 2


async def test_a_server_where_no_stream_confirms_anything_for_long_is_left(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_UNSERVED_MAX_S", 0.5)
    session = connection.session()
    async with await session.subscribe("silent"):  # somebody listens, and never answers
        for _ in range(2):
            assert not session.lost.is_set()
            with pytest.raises(LogUnavailable):
                await api.publish(session, "silent", b"", {})
    assert session.lost.is_set()
    assert "no stream confirmed anything" in session.problem
    await connection.wait_connected(DEADLINE_S)
    assert await publish_stubbornly(NatsEventLog(connection), 1) == 1


async def test_a_server_that_has_no_stream_to_confirm_anything_for_long_is_left(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_UNSERVED_MAX_S", 0.2)
    session = connection.session()
    async with asyncio.timeout(DEADLINE_S):
        while not session.lost.is_set():
            with pytest.raises(LogUnavailable):
                await api.publish(session, "nobody.takes.this", b"", {})
    assert "no stream confirmed anything" in session.problem
