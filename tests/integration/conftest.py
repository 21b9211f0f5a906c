"""Fixtures around one real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from log_support import CA, MESH, connected
from nats_server import NatsServer

from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import ensure


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    """A connection to a server that holds the mesh's stream and buckets."""
    async with connected(NatsSettings(servers=(nats_server.url,))) as made:
        await ensure(made, MESH, CA)
        yield made
