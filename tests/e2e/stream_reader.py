"""A program of a host: reads the mesh's stream with that host's settings, and prints what it holds.

One line of JSON: for each message its position, its subject and the SHA-256 of what it says; and of
each stream and bucket, on how many servers it is, all of them current.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.config import load
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.stream import NatsEventLog

STREAMS = ("MESH_EVENTS", "KV_MESH_REGISTRY", "KV_MESH_IDENTITIES", "KV_MESH_LEASES")
CONNECT_S = 10.0


async def read() -> dict[str, Any]:
    async with Connection(nats_settings(load(os.environ, Path.cwd()))) as connection:
        await connection.wait_connected(CONNECT_S)
        servers = {}
        for stream in STREAMS:
            info = await call(connection.session(), f"STREAM.INFO.{stream}", StreamInfo)
            others = (info.cluster.replicas or []) if info.cluster else []
            servers[stream] = 1 + sum(other.current for other in others)
        events: list[tuple[int, str, str]] = []
        async for batch in NatsEventLog(connection).tail(0):
            events += [
                (one.position, one.sealed.subject, hashlib.sha256(one.sealed.payload).hexdigest())
                for one in batch.messages
            ]
            if batch.pending == 0:
                return {"servers": servers, "events": events}
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(asyncio.run(read())))  # noqa: T201 - its answer
