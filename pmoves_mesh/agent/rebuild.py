"""Rebuilding the registry bucket, as a command of its own beside a running agent."""

from __future__ import annotations

import asyncio

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.rebuild import Rebuilt, rebuild

_CONNECT_S = 5.0


def run(config: Config) -> Rebuilt:
    """Rebuilds the registry bucket from the stream; returns what that changed.

    Raises:
        LogError: if the log cannot be reached or read.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_rebuild(config))


async def _rebuild(config: Config) -> Rebuilt:
    clock = SystemClock()
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_S)
        identities = NatsBucket(connection, topology.IDENTITIES)
        verifier = Verifier(trust, identities, clock, accept_unsigned=config.accept_unsigned)
        bucket = NatsBucket(connection, topology.REGISTRY)
        return await rebuild(NatsEventLog(connection), bucket, verifier, clock)
