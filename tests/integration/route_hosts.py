"""Three secured nats-servers on this machine that keep the streams of one mesh together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from ports import free_port
from secured import CLOCK, Party, SecuredMesh

from pmoves_mesh.core.names import JETSTREAM_API
from pmoves_mesh.log import topology
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.cluster import Cluster
from pmoves_mesh.server.process import EmbeddedServer, Secured
from pmoves_mesh.server.settings import ServerFiles

NAMES = ("main", "beta", "gamma")


class RouteHosts:
    """The mesh, and what each of its three servers is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mesh = SecuredMesh(directory)
        self.nodes = {"main": self.mesh.owner, **{name: self.mesh.party(name) for name in NAMES[1:]}}
        self.clients = {name: free_port() for name in NAMES}
        self.routes = {name: free_port() for name in NAMES}

    def cluster(self, name: str, **changed: Any) -> Cluster:
        others = tuple(f"127.0.0.1:{port}" for other, port in self.routes.items() if other != name)
        port = self.routes[name] if name in self.routes else free_port()
        found = Cluster(own=name, nodes=NAMES, routes=others, host="127.0.0.1", port=port)
        return msgspec.structs.replace(found, **changed)

    def server(
        self, name: str, party: Party | None = None, access: Access | None = None, **changed: Any
    ) -> EmbeddedServer:
        shown = party or self.nodes[name]
        secured = Secured(
            host="127.0.0.1",
            mesh=self.mesh.mesh,
            certificate=shown.certificate,
            key=shown.key,
            access=access or self.mesh.access(),
            cluster=self.cluster(name, **changed),
        )
        port = self.clients.setdefault(name, free_port())
        return EmbeddedServer(locate(os.environ), self.home(name), port, CLOCK, secured)

    def home(self, name: str) -> Path:
        return self.directory / "homes" / name

    def log(self, name: str) -> str:
        return ServerFiles(self.home(name) / "nats").log.read_text()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, EmbeddedServer]]:
        async with contextlib.AsyncExitStack() as stack:
            servers = {name: self.server(name) for name in NAMES}
            for server in servers.values():
                stack.push_async_callback(server.stop)
                await server.start()
            yield servers

    def owner(self, name: str = "main") -> contextlib.AbstractAsyncContextManager[Connection]:
        """Returns a connection of the node that makes the streams, to one of the servers."""
        return self.mesh.connected(self.mesh.owner, self.clients[name], api_prefix=JETSTREAM_API)

    async def ensured(self, connection: Connection) -> None:
        await topology.ensure(connection, self.mesh.mesh, self.mesh.fingerprint)
