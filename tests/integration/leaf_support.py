"""A hub, a standalone host whose nats-server is a leaf node of it, and programs that know nats-py alone."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import nats.errors
from agents import DEADLINE_S, AgentProcess, eventually
from nats.aio.client import Client
from nats.aio.msg import Msg
from ports import free_port
from secured_host import MESH, SecuredHost

from pmoves_mesh.core.names import server_name_of
from pmoves_mesh.tls import client_context

SERVERS = (f"spiffe://{MESH}/node/*", f"spiffe://{MESH}/service/nats")


class Hub(SecuredHost):
    """The main host, which takes leaf nodes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.leaf_port = free_port()
        self.settings |= {
            "PMOVES_LEAF_PORT": str(self.leaf_port),
            "SERVICE_REGISTRY_HOST": "0.0.0.0",
            "SERVICE_REGISTRY_PORT": str(free_port()),
            "ANNOUNCE_SEC": "1",
        }

    @property
    def server_pid(self) -> int:
        return int((self.data_dir / "nats" / "nats-server.pid").read_text())

    @property
    def server_log(self) -> str:
        return (self.data_dir / "nats" / "nats-server.log").read_text()

    def context(self, service: str) -> ssl.SSLContext:
        """Returns how a service logs in, with an identity of its own."""
        files = self.tls_dir / "services" / f"{service}.crt", self.tls_dir / "services" / f"{service}.key"
        if not files[0].exists():
            self.certify(service)
        return client_context(*files, self.tls_dir / "ca.crt", allow=SERVERS)


class Edge(AgentProcess):
    """A standalone host that joined the hub's mesh; use it as a context manager."""

    def __init__(self, directory: Path, hub: Hub, node: str = "edge", **settings: str) -> None:
        self.port = free_port()
        super().__init__(directory, node, "", **settings)
        self.tls_dir = self.directory / "tls"
        self.settings |= {
            "SERVICE_MODE": "standalone",
            "NATS_EXTERNAL_URL": hub.nats_url,
            "PMOVES_LEAF": "1",
            "PMOVES_LEAF_PORT": str(hub.leaf_port),
            "PMOVES_NATS_PORT": str(self.port),
            "ANNOUNCE_SEC": "1",
            **settings,
        }

    @property
    def local_url(self) -> str:
        """Where the services of this host find NATS."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def server_pid(self) -> int:
        return int((self.data_dir / "leaf" / "nats" / "nats-server.pid").read_text())

    @property
    def server_log(self) -> str:
        return (self.data_dir / "leaf" / "nats" / "nats-server.log").read_text()

    def join(self, hub: Hub) -> None:
        """Joins the mesh, as an operator has it."""
        made = hub.run("token", "create", "--node", self.node)
        assert made.returncode == 0, made.stderr
        done = self.run("join", made.stdout.strip(), "--name", self.node, "--force")
        assert done.returncode == 0, done.stderr

    def joins_hub(self) -> bool:
        """Whether its server says that it is connected to the hub."""
        lines = [line for line in self.server_log.splitlines() if "Leafnode connection" in line]
        return bool(lines) and "Leafnode connection created" in lines[-1]

    def is_leaf(self) -> None:
        eventually(self.joins_hub, "the hub takes the leaf node", 2 * DEADLINE_S)

    def __exit__(self, *_error: object) -> None:
        self.terminate()


@contextlib.asynccontextmanager
async def client_at(url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A client that stays, whatever becomes of its server."""
    options: dict[str, Any] = (
        {} if context is None else {"tls": context, "tls_hostname": server_name_of(MESH)}
    )
    async with asyncio.timeout(DEADLINE_S):
        while True:
            client = Client()
            try:
                # A certificate that was issued a moment ago may not be known to the server yet.
                await client.connect(
                    url,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,
                    connect_timeout=2,
                    error_cb=_ignored,
                    **options,
                )
                await client.flush(timeout=2)
            except (OSError, nats.errors.Error):
                with contextlib.suppress(OSError, nats.errors.Error):
                    await client.close()
            else:
                break
    try:
        yield client
    finally:
        await client.close()


async def _ignored(_error: Exception) -> None:
    """Lost connections are what these tests are about."""


async def told(say: Callable[[], Awaitable[None]], heard: Callable[[], Awaitable[Msg]]) -> Msg:
    """Says something until it is heard: interest of the other side takes a moment to arrive."""
    give_up_s = time.perf_counter() + DEADLINE_S
    while time.perf_counter() < give_up_s:
        await say()
        with contextlib.suppress(nats.errors.TimeoutError):
            return await heard()
    raise TimeoutError("nothing was heard")


async def crosses(source: Client, target: Client, subject: str, payload: bytes = b"{}") -> Msg:
    """Returns a message as it comes out at another client."""
    subscription = await target.subscribe(subject)
    await target.flush()
    try:
        return await told(
            lambda: source.publish(subject, payload, headers={"Said-By": "a test"}),
            lambda: subscription.next_msg(0.5),
        )
    finally:
        await subscription.unsubscribe()


async def stays_away(source: Client, target: Client, subject: str) -> None:
    """Checks that a message does not come out, though a later one on another subject does."""
    subscription = await target.subscribe(">")
    await target.flush()
    await source.publish(subject, b"forged")
    await told(lambda: source.publish("later", b""), lambda: _until(subscription.next_msg, subject))
    await subscription.unsubscribe()


async def _until(next_msg: Callable[[float], Awaitable[Msg]], never: str) -> Msg:
    while True:
        message = await next_msg(0.5)
        assert message.subject != never, f"{never} came across"
        if message.subject == "later":
            return message
