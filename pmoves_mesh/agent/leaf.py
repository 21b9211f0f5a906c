"""The nats-server of a standalone host's own services, which joins the hub as a leaf node while it can.

It runs from the agent's first moment, whatever the hub and the CA do: services of the host are never kept
waiting. As what it logs in to the hub is a service's identity, with the key of the host's node.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from cryptography import x509

from pmoves_mesh.agent.trust.renewal import Held
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import server_name_of
from pmoves_mesh.errors import EnrolmentRefusedError, MeshError, PkiError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key, write_certificate
from pmoves_mesh.pki.identity import verified_identity
from pmoves_mesh.pki.requests import make_request
from pmoves_mesh.ports import Clock, Enroller, ServiceRequest
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.leaf import DIRECTORY, SERVICE_PREFIX, Remote, Spoke, is_number
from pmoves_mesh.server.leafz import complaint, reaches_hub
from pmoves_mesh.server.process import EmbeddedServer
from pmoves_mesh.server.settings import ServerFiles

_CERTIFICATE: Final = "leaf.crt"
_LOOK_EVERY_S: Final = 10.0
_LOOK_SOON_S: Final = 2.0
_ASK_EVERY_S: Final = 10.0
_REFUSED_S: Final = 300.0
_LOOKUP_S: Final = 2.0
_LOOKUP_EVERY_S: Final = 30.0
_LONG_S: Final = 30.0

_log: Final = structlog.get_logger(__name__)

Loop = Callable[[], Coroutine[Any, Any, None]]


def leaf_files(config: Config) -> ServerFiles:
    """Returns the files of the server."""
    return ServerFiles(config.data_dir.absolute() / DIRECTORY / "nats")


def leaf_held(config: Config) -> Iterator[Held]:
    """Yields the certificate with which the server logs in, if there is one for the node's key."""
    certificate, key = config.data_dir / DIRECTORY / _CERTIFICATE, identity_files(config)[1]
    if not (certificate.exists() and key.exists()):
        return
    with suppress(PkiError):  # a host that joined anew has another key, and is given another certificate
        if read_certificates(certificate)[0].public_key() == read_key(key).public_key():
            yield Held(certificate, key)


async def begin(config: Config, clock: Clock, stack: AsyncExitStack) -> LeafNode | None:
    """Returns the server, which takes connections and ends with `stack`; None where there is to be none.

    It waits for nothing but the names in `NATS_EXTERNAL_URL`, 2 seconds at most.

    Raises:
        StartError: if it cannot run.
    """
    if not config.leaf:
        return None
    way = _Way(config, clock)
    spoke = await way.spoke()
    directory = config.data_dir / DIRECTORY
    server = EmbeddedServer(locate(os.environ), directory, config.nats_port, clock, spoke)
    stack.push_async_callback(server.stop)
    await server.start()
    return LeafNode(config, clock, server, way, spoke)


class LeafNode:
    """The server, and its way to the hub."""

    def __init__(self, config: Config, clock: Clock, server: EmbeddedServer, way: _Way, spoke: Spoke) -> None:
        """Takes the server as it runs."""
        self._config = config
        self._clock = clock
        self._server = server
        self._way = way
        self._spoke = spoke
        self._files = leaf_files(config)
        self._seen = _versions(spoke)
        self._ask_from_s = clock.monotonic_s()
        self._cut_off_since_s: float | None = clock.monotonic_s()
        self._problem = ""

    def loops(self, enroller: Enroller) -> tuple[Loop, ...]:
        """Returns what runs while the agent does; `enroller` gives the server its identity."""

        async def look_after_leaf() -> None:
            await self._look_after(enroller)

        return self._server.supervise, look_after_leaf

    def warnings(self) -> list[str]:
        """Returns a line if the hub has not been reached for long."""
        since_s = self._cut_off_since_s
        cut_off_s = 0.0 if since_s is None else self._clock.monotonic_s() - since_s
        if cut_off_s < _LONG_S:
            return []
        why = f": {self._problem}" if self._problem else ""
        return [f"this host's NATS server has not reached the hub for {cut_off_s:.0f} s{why}"]

    async def _look_after(self, enroller: Enroller) -> None:
        while True:
            try:
                if self._spoke.remote is None and self._clock.monotonic_s() >= self._ask_from_s:
                    self._ask_from_s = self._clock.monotonic_s() + _ASK_EVERY_S
                    await self._be_known(enroller)
                await self._take_up()
                await self._note_hub()
            except MeshError as error:
                if str(error) != self._problem:
                    _log.warning("this host's NATS server cannot join the hub", reason=str(error))
                self._problem = str(error)
            cut_off = self._cut_off_since_s is not None
            await self._clock.sleep(_LOOK_SOON_S if cut_off else _LOOK_EVERY_S)

    async def _be_known(self, enroller: Enroller) -> None:
        """Gets the identity with which the server logs in, unless there is one."""
        config = self._config
        if await asyncio.to_thread(lambda: list(leaf_held(config))):
            return
        name = f"{SERVICE_PREFIX}{config.node}"
        key = await asyncio.to_thread(read_key, identity_files(config)[1])
        csr = await asyncio.to_thread(make_request, config.mesh, "service", name, key)
        try:
            issued = await enroller.certify(ServiceRequest(name=name, csr=csr, remote=""))
        except EnrolmentRefusedError:
            self._ask_from_s = self._clock.monotonic_s() + _REFUSED_S  # the CA states each refusal
            raise
        certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
        roots = await asyncio.to_thread(keystore.read_roots, config.tls_dir)
        verified_identity(config.mesh, name, roots, certificate, key, "service")
        await asyncio.to_thread(write_certificate, config.data_dir / DIRECTORY / _CERTIFICATE, certificate)
        _log.info("this host's NATS server may join the hub", service=name)

    async def _take_up(self) -> None:
        """Tells the server what is new: where the hub is, or a certificate that was renewed."""
        wanted = await self._way.spoke()
        versions = await asyncio.to_thread(_versions, wanted)
        if wanted != self._spoke:
            await self._server.join(wanted)
        elif versions != self._seen:
            await self._server.reload()
        self._spoke, self._seen = wanted, versions

    async def _note_hub(self) -> None:
        if await reaches_hub(self._files):
            if self._cut_off_since_s is not None:
                _log.info("this host's NATS server has joined the hub")
            self._cut_off_since_s, self._problem = None, ""
            return
        if self._cut_off_since_s is None:
            self._cut_off_since_s = self._clock.monotonic_s()
            _log.warning("this host's NATS server has lost the hub")
        if self._spoke.remote is not None:
            self._problem = await asyncio.to_thread(complaint, self._files)


class _Way:
    """How the server is to log in to the hub, as far as it can by now."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._fresh_until_s: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Future[list[Any]]] = {}

    async def spoke(self) -> Spoke:
        """Returns it; without an identity, or without an address of the hub, there is no remote."""
        config = self._config
        held = await asyncio.to_thread(lambda: list(leaf_held(config)))
        hosts = await self._hosts() if held else ()
        if not hosts:
            return Spoke(domain=config.node)
        remote = Remote(
            hosts=hosts,
            port=config.leaf_port,
            server_name=server_name_of(config.mesh),
            certificate=str(held[0].certificate.absolute()),
            key=str(held[0].key.absolute()),
            roots=str((config.tls_dir / keystore.CA_CERTIFICATE).absolute()),
        )
        return Spoke(domain=config.node, remote=remote)

    async def _hosts(self) -> tuple[str, ...]:
        """Returns the hub's addresses; a name that cannot be looked up now has those that it had."""
        names = [urlsplit(url).hostname or "" for url in self._config.nats_external]
        await asyncio.gather(*(self._look_up(name) for name in names if not is_number(name)))
        found = [self._addresses.get(name, (name,) if is_number(name) else ()) for name in names]
        return tuple(dict.fromkeys(address for several in found for address in several))

    async def _look_up(self, name: str) -> None:
        """Looks a name up, unless that was done lately, and waits 2 seconds at most."""
        if self._clock.monotonic_s() < self._fresh_until_s.get(name, -math.inf):
            return
        if name not in self._under_way:  # one that takes long keeps a thread, so there is one at a time
            asked = asyncio.get_running_loop().getaddrinfo(
                name, self._config.leaf_port, type=socket.SOCK_STREAM
            )
            self._under_way[name] = asyncio.ensure_future(asked)
        done, _ = await asyncio.wait((self._under_way[name],), timeout=_LOOKUP_S)
        if not done:
            return
        with suppress(OSError, UnicodeError):
            found = await self._under_way.pop(name)
            self._addresses[name] = tuple(sorted({str(address[0]) for *_, address in found}))
            self._fresh_until_s[name] = self._clock.monotonic_s() + _LOOKUP_EVERY_S


def _versions(spoke: Spoke) -> tuple[int, ...]:
    """Returns what changes when a file that the server reads at a reload is written anew."""
    remote = spoke.remote
    paths = (Path(remote.certificate), Path(remote.roots)) if remote else ()
    return tuple(path.stat().st_mtime_ns for path in paths if path.exists())
