"""Taking over from an older registry's stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from log_support import CA, MESH, connected
from nats_server import NatsServer

from pmoves_mesh.errors import LogError
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Done, StreamInfo, StreamNames, call
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.migration import Conflict, make_room, plan, registrations
from pmoves_mesh.log.topology import EVENTS, ensure


async def make(connection: Connection, name: str, *subjects: str) -> None:
    config = {"name": name, "subjects": list(subjects)}
    await call(connection.session(), f"STREAM.CREATE.{name}", Done, config)


async def say(connection: Connection, kind: str, service: str, port: int = 1) -> bytes:
    payload = json.dumps({"type": kind, "service": service, "data": {"name": service, "port": port}}).encode()
    await api.publish(connection.session(), f"service.registry.{kind}", payload, {})
    return payload


async def names(connection: Connection) -> list[str]:
    return (await call(connection.session(), "STREAM.NAMES", StreamNames, {})).streams or []


async def test_only_streams_that_overlap_are_planned_for(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            assert await plan(connection) == []
            await make(connection, "gpu", "mesh.gpu.>")
            await make(connection, "service_registry", "service.registry.>")
            await make(connection, "wide", "mesh.node.announce.v1", "other.>")
            await say(connection, "registered", "rag")
            assert await plan(connection) == [
                Conflict(stream="service_registry", subjects=("service.registry.>",), kept=(), messages=1),
                Conflict(
                    stream="wide",
                    subjects=("mesh.node.announce.v1", "other.>"),
                    kept=("other.>",),
                    messages=0,
                ),
            ]


async def test_a_covered_stream_gives_its_latest_registrations_and_is_deleted(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            await make(connection, "service_registry", "service.registry.>")
            await say(connection, "registered", "rag", 1)
            await say(connection, "registered", "whisper", 2)
            await say(connection, "registered", "gone", 3)
            await api.publish(connection.session(), "service.registry.registered", b"not json \xff", {})
            await say(connection, "unregistered", "gone")
            rag = await say(connection, "registered", "rag", 4)
            saved = await registrations(connection, "service_registry")
            assert [json.loads(payload)["data"]["port"] for payload in saved] == [2, 4]
            assert saved[1] == rag
            assert await names(connection) == ["service_registry"]
            await make_room(connection, "service_registry")
            assert await names(connection) == []
            await ensure(connection, MESH, CA)
            assert await plan(connection) == []


async def test_a_stream_with_other_subjects_is_narrowed_and_keeps_its_messages(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            await make(connection, "wide", "service.registry.registered", "mesh.gpu.>")
            await api.publish(connection.session(), "mesh.gpu.status.v1", b"busy", {})
            assert await registrations(connection, "wide") == []
            await make_room(connection, "wide")
            info = await call(connection.session(), "STREAM.INFO.wide", StreamInfo)
            assert info.config["subjects"] == ["mesh.gpu.>"]
            assert info.state.messages == 1
            await ensure(connection, MESH, CA)


async def test_a_stream_that_is_not_in_the_way_is_never_touched(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            await make(connection, "gpu", "mesh.gpu.>")
            await ensure(connection, MESH, CA)
            for step in (registrations, make_room):
                for name in ("gpu", EVENTS):
                    with pytest.raises(LogError, match="nothing was changed"):
                        await step(connection, name)
                with pytest.raises(LogError, match="there is no stream absent"):
                    await step(connection, "absent")
            assert {"gpu", EVENTS} < set(await names(connection))
