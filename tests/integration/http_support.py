"""A real HTTP server for tests: its registry is folded from sealed events, its writes go through a store."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest
import uvloop
from builders import MESH, NOW_MS, Authority, Identity
from certificates import FileAuthority, IdentityFiles

from pmoves_mesh import __version__
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import Event
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.store import Store
from pmoves_mesh.tls import client_context
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import Facade, RegistryFacts
from pmoves_mesh.views.http.limits import Bounds
from pmoves_mesh.views.http.listener import Exposure, TlsFiles

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
    session: aiohttp.ClientSession = field(init=False)
    facade: Facade = field(init=False)

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

    @property
    def watching(self) -> int:
        """How many watch this node."""
        return self.facade.readers["events"]()

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
            events={outcome: count for (_, outcome), count in replica.outcomes.items()},
            rejected=dict(replica.verifier.rejected),
            rejections=tuple(replica.verifier.rejections),
            unsigned="reject",
            gaps=replica.gaps,
            ca=replica.verifier.trust.root_fingerprints,
            version=__version__,
            warnings=(),
        )


def files_of(identity: IdentityFiles) -> Exposure:
    """Returns an exposure by TLS with a node's files."""
    return Exposure(tls=TlsFiles(certificate=identity.certificate, key=identity.key, roots=identity.roots))


def believe(mesh: Served, *authorities: FileAuthority) -> None:
    """Lets a node believe these CAs, beside the one that it was given."""
    mesh.authority.trust.rotate([mesh.authority.root, *(one.root for one in authorities)], [])


@dataclass(frozen=True)
class Exposed:
    """A node whose API other hosts reach, and the CA of its mesh."""

    mesh: Served
    port: int
    ca: FileAuthority

    def caller(self, identity: IdentityFiles | None = None) -> Caller:
        """Returns a client on another host that speaks TLS, and shows an identity if it is given one."""
        return Caller(self.port, own_address(), client_of(self.ca, identity))

    def plain(self, address: str | None = None) -> Caller:
        """Returns a client that speaks plain HTTP: on another host, unless it is told otherwise."""
        return Caller(self.port, address or own_address())


@asynccontextmanager
async def exposed(
    directory: Path,
    ca: FileAuthority,
    *,
    host: str = "0.0.0.0",
    exposure: Exposure | None = None,
    bounds: Bounds | None = None,
    token: str | None = None,
    **changes: Any,
) -> AsyncIterator[Exposed]:
    """A node that serves its registry to other hosts, by TLS unless it is told otherwise.

    changes are fields of its facade.
    """
    shown = exposure or files_of(ca.identity(NODE, "node"))
    async with served(directory, token=token) as mesh:
        believe(mesh, ca)
        mesh.facade = replace(mesh.facade, **changes)
        async with serving(mesh.facade, host, 0, exposure=shown, bounds=bounds or Bounds()) as port:
            yield Exposed(mesh, port, ca)


def client_of(ca: FileAuthority, identity: IdentityFiles | None = None) -> ssl.SSLContext:
    """Returns what a client of a node connects with; without an identity it shows none."""
    shown = (None, None) if identity is None else (identity.certificate, identity.key)
    return client_context(*shown, ca.roots, allow=[f"spiffe://{MESH}/node/{NODE}"])


@dataclass(frozen=True)
class Caller:
    """A client on another host, as far as the server can tell, or on this one.

    tls is what it connects with; None for plain HTTP.
    """

    port: int
    address: str
    tls: ssl.SSLContext | None = None

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with aiohttp.ClientSession() as session:
            return await self.ask_in(session, method, path, **options)

    async def ask_in(self, session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Answer:
        scheme = "http" if self.tls is None else "https"
        url = f"{scheme}://{self.address}:{self.port}{path}"
        async with session.request(method, url, ssl=self.tls or True, **options) as response:
            raw = await response.read()
            return Answer(response.status, response.headers, msgspec.json.decode(raw) if raw else None)

    async def register(self, name: str, **options: Any) -> Answer:
        return await self.ask("POST", "/api/services", json={"name": name, "port": 9000}, **options)


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a coroutine into a test that is run on the loop of the standard library, and on uvloop."""

    @functools.wraps(test)
    def run(*, new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**fixtures))

    own = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])  # type: ignore[attr-defined]
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])(run)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits until a condition holds; fails the test if it does not in time."""
    begin_s = SystemClock().monotonic_s()
    while not await condition():
        if SystemClock().monotonic_s() - begin_s > DEADLINE_S:
            pytest.fail(f"not within {DEADLINE_S:g} s: {what}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def served(
    data_dir: Path, *, connected: bool = True, token: str | None = None, clock: Clock | None = None
) -> AsyncIterator[Served]:
    """A node `alpha` that serves its registry on a free port."""
    clock = clock or PinnedClock()
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
            running = [tasks.create_task(loop) for loop in (outbox.run(), outbox.forget_sent())]
            if connected:  # an agent follows the log from when it has joined the mesh
                running.append(tasks.create_task(replica.run()))
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
