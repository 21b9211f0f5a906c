"""A real HTTP server for tests: its registry is folded from sealed events, its writes go through a store."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest
from builders import MESH, NOW_MS, Authority, Identity

from pmoves_mesh import __version__
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import Event
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.store import Store
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import Facade, RegistryFacts

NODE: Final = "alpha"
HOST: Final = "127.0.0.1"
DEADLINE_S: Final = 10.0


def own_address() -> str:
    """Returns an address of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


class PinnedClock(SystemClock):
    """The host's clock, but the date is always one at which the test's certificates hold."""

    def now_ms(self) -> int:
        return NOW_MS


@dataclass
class Answer:
    """What came back: JSON where there is a body."""

    status: int
    headers: Any
    body: Any

    @property
    def position(self) -> int:
        return int(self.headers["X-Mesh-Position"])


@dataclass
class Served:
    """A node's registry over HTTP, and the mesh behind it."""

    authority: Authority
    broker: MemoryBroker
    client: MemoryClient
    replica: Replica
    registrations: Registrations
    store: Store
    identities: dict[tuple[str, str], Identity]
    port: int = 0
    facade: Facade = field(init=False)
    session: aiohttp.ClientSession = field(init=False)

    def publish(self, event: Event, *, kind: str = "node", by: str | None = None) -> int:
        """Puts an event of another node into the stream and returns its position."""
        author = (by or event.node, kind)
        if author not in self.identities:
            self.identities[author] = self.authority.identity(*author)
        return self.broker.publish(envelope.seal(event, self.identities[author]), None)

    async def tell(self, *events: Event) -> int:
        """As `publish`, and waits until this node has folded the last one in."""
        position = 0
        for event in events:
            position = self.publish(event)
        await self.replica.wait_position(position, DEADLINE_S)
        return position

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, f"http://{HOST}:{self.port}{path}", **options) as response:
            raw = await response.read()
            return Answer(response.status, response.headers, msgspec.json.decode(raw) if raw else None)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def register(self, path: str = "/api/services", /, **fields: Any) -> Answer:
        return await self.ask("POST", path, data=msgspec.json.encode(fields))

    async def is_current(self) -> None:
        assert await self.replica.wait_current(DEADLINE_S)

    async def is_not_current(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.replica.is_current:
                await asyncio.sleep(0.005)

    def facts(self) -> RegistryFacts:
        replica = self.replica
        registry = replica.registry
        return RegistryFacts(
            mesh=MESH,
            hostname=NODE,
            mode="docked",
            nats_url="nats://127.0.0.1:4222",
            nats_external="",
            services=len(registry),
            nodes=len(registry.nodes),
            position=replica.position,
            stream="memory",
            stale=not replica.is_current,
            stale_s=replica.stale_s,
            connected=self.client.connected,
            current=replica.is_current,
            outbox=self.store.outbox_depth,
            events=dict(replica.outcomes),
            rejected=dict(replica.verifier.rejected),
            rejections=tuple(replica.verifier.rejections),
            unsigned="reject",
            gaps=replica.gaps,
            ca=replica.verifier.trust.root_fingerprints,
            version=__version__,
            warnings=(),
        )


@asynccontextmanager
async def served(
    data_dir: Path, *, connected: bool = True, token: str | None = None
) -> AsyncIterator[Served]:
    """A node `alpha` that serves its registry on a free port."""
    clock = PinnedClock()
    authority, broker = Authority(), MemoryBroker(clock)
    client = MemoryClient(broker, random.Random(1))
    if not connected:
        client.disconnect()
    log = MemoryLog(client)
    verifier = Verifier(authority.trust, MemoryBucket(client, "identities"), clock)
    replica = Replica(verifier, log, MemoryBucket(client, "registry"), clock)
    identity = authority.identity(NODE)
    async with Store.opened(data_dir) as store:
        outbox = Outbox(store, log, clock)
        author = Author(NODE, identity, store, replica, outbox, clock)
        await author.begin()
        registrations = Registrations(author, replica, log, clock, host="10.0.0.1", mode="docked")
        here = Served(
            authority, broker, client, replica, registrations, store, identities={(NODE, "node"): identity}
        )
        here.facade = Facade(
            replica=replica,
            registrar=registrations,
            node=NODE,
            describe=here.facts,
            token=token,
            names=frozenset({NODE}),
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(replica.run()), tasks.create_task(outbox.run())]
            try:
                if connected:
                    await here.is_current()
                async with (
                    serving(here.facade, HOST, 0) as here.port,
                    aiohttp.ClientSession() as here.session,
                ):
                    yield here
            finally:
                for task in running:
                    task.cancel()
