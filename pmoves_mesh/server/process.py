"""The embedded nats-server: started, adopted, kept alive and stopped.

Other hosts rely on it, so it outlives a crash of the agent that started it, and the next agent
of the same data directory takes it over. Only an orderly stop ends it.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import StartError
from pmoves_mesh.ports import Clock
from pmoves_mesh.server.access import Access, encode
from pmoves_mesh.server.binary import Binary
from pmoves_mesh.server.child import ServerProcess
from pmoves_mesh.server.cluster import Cluster
from pmoves_mesh.server.door import Door, RestartNeeded
from pmoves_mesh.server.files import (
    last_lines,
    move_account,
    put_back,
    read_text,
    running_pid,
    set_aside,
    write_text,
)
from pmoves_mesh.server.host import check_free, name_at
from pmoves_mesh.server.leaf import Spoke
from pmoves_mesh.server.settings import Listener, ServerFiles

_READY_S: Final = 10.0
_GRACE_S: Final = 4.0
_POLL_S: Final = 0.02
_STABLE_S: Final = 10.0
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0
_PLAIN_ACCOUNT: Final = "$G"

_log = structlog.get_logger(__name__)


class Secured(Struct, frozen=True, kw_only=True):
    """How a server listens beyond loopback: with mutual TLS, each identity a user of its own.

    Attributes:
        host: the address to listen on, such as `0.0.0.0`.
        mesh: the mesh that it is for; others may be guests.
        certificate: path of the server's certificate, which is its node's.
        key: path of its private key.
        access: who may log in; None where an earlier run has said so.
        leaf_port: where it takes leaf nodes; 0 takes none.
        cluster: the servers that keep the streams together with this one; None where it is alone.
    """

    host: str
    mesh: str
    certificate: Path
    key: Path
    access: Access | None = None
    leaf_port: int = 0
    cluster: Cluster | None = None


class EmbeddedServer:
    """The nats-server of one data directory.

    Args:
        binary: the program.
        data_dir: its files go to `nats` below it.
        port: where it listens.
        clock: paces readiness and restarts.
        how: how it listens beyond loopback, or as which leaf node it joins the hub; None for plain
            NATS on loopback.
    """

    def __init__(
        self, binary: Binary, data_dir: Path, port: int, clock: Clock, how: Secured | Spoke | None = None
    ) -> None:
        self._binary = binary
        self._files = ServerFiles(data_dir.absolute() / "nats")
        self._door = Door(self._files, clock)
        self._secured = how if isinstance(how, Secured) else None
        self._listener = _listener(port, how)
        self._clock = clock
        self._name = ""
        self._process: ServerProcess | None = None
        self._retired: ServerProcess | None = None
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self._listener.url

    @property
    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Makes it run, and returns when it takes connections: at most 10 s later.

        One that an earlier run of this data directory left is taken over, and told what changed.

        Raises:
            StartError: if it cannot run, or the port is taken; says by whom and what to do.
        """
        self._stopped.clear()
        await asyncio.to_thread(self._make_directory)
        await asyncio.to_thread(self._check_not_left)
        async with self._door.held():
            before = await asyncio.to_thread(self._door.listener)
            changed = await asyncio.to_thread(self._prepare)
        # One of an earlier release left no word of where it listens, but the same configuration.
        same_place = not changed if before is None else _place(before) == _place(self._listener)
        if not await self._adopt(same_place=same_place, changed=changed):
            await asyncio.to_thread(self._keep_streams, before)
            await self._launch()

    async def admit(self, access: Access) -> None:
        """Lets the members of the server's own mesh in, and no others; returns when the server has taken it.

        Connections whose user, rights and key stay as they were stay open; those of members that are
        gone, or whose key is, are closed, and cannot be made again.

        Raises:
            StartError: if the server is not secured, or refuses it and goes on as before.
        """
        if access.mesh != self._listener.mesh:
            raise StartError(f"this nats-server takes no members of mesh {access.mesh}")
        try:
            await self._door.admit(access)
        except RestartNeeded as error:
            await self._begin_anew(str(error))

    async def reload(self) -> None:
        """Makes the server take a renewed certificate; no connection ends by that.

        Raises:
            StartError: if the server refuses it, and goes on with the old one.
        """
        await self._door.reload()

    async def join(self, spoke: Spoke) -> None:
        """Makes a leaf node of the server, or has it log in to the hub in another way.

        Its clients and streams are left alone, unless it can only take that at its next start.

        Raises:
            StartError: if it cannot be told.
        """
        self._listener = msgspec.structs.replace(self._listener, spoke=spoke)
        await asyncio.to_thread(self._prepare)
        try:
            await self._door.reload()
        except StartError as error:
            await self._begin_anew(str(error))

    async def supervise(self) -> None:
        """Starts it again whenever it dies, at once and then ever more slowly, until `stop`."""
        failures = 0
        while not self._stopped.is_set():
            begun_s = self._clock.monotonic_s()
            process = self._process
            if process is not None:
                await process.exited()
                if self._stopped.is_set():
                    return
                if process is not self._retired:
                    reason = await asyncio.to_thread(self._last_words, process)
                    _log.error("nats-server ended", pid=process.pid, reason=reason)
            if self._clock.monotonic_s() - begun_s > _STABLE_S:
                failures = 0
            await self._clock.sleep(restart_pause_s(failures))
            failures += 1
            try:
                await self._launch()
            except StartError as error:
                if not self._stopped.is_set():
                    _log.error("nats-server not restarted", reason=str(error))

    async def stop(self) -> None:
        """Ends it: asks, and kills it if it still runs 4 s later."""
        self._stopped.set()
        process = self._process
        if process is None:
            return
        try:
            await process.end(_GRACE_S)
        finally:
            self._discard(process)

    async def _begin_anew(self, reason: str) -> None:
        """Has `supervise` start it again, and returns when it takes connections, or 10 s have passed."""
        old = self._process
        if old is None:
            return  # whoever starts it again starts it with the new configuration
        _log.info("nats-server is started anew", reason=reason)
        self._retired = old
        await old.end(_GRACE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while self._process in {None, old}:
                    await self._clock.sleep(_POLL_S)
                if (process := self._process) is not None:
                    await self._ready(process)

    async def _adopt(self, *, same_place: bool, changed: bool) -> bool:
        """Takes over the server that an earlier run left, or ends it if it cannot be made as it should be."""
        pid = await asyncio.to_thread(running_pid, self._files)
        if pid is None:
            return False
        self._process = ServerProcess(pid, str(self._files.config), None, self._clock)
        if same_place and await self._ready(self._process):
            try:
                if changed or self._listener.certified:  # its certificate may have been renewed meanwhile
                    await self._door.reload()
            except StartError as error:
                _log.warning("nats-server is started anew", reason=str(error))
            else:
                _log.info("nats-server adopted", pid=pid, port=self._listener.port)
                return True
        await self.stop()
        self._stopped.clear()
        return False

    async def _launch(self) -> None:
        self._process = None
        await asyncio.to_thread(check_free, self._listener.port, self._listener.host)
        async with self._door.held():
            await asyncio.to_thread(self._door.configure)
        if self._stopped.is_set():
            return
        process = self._process = self._spawn()
        try:
            ready = await self._ready(process)
        except BaseException:
            self._discard(process)
            raise
        if ready:
            port, version = self._listener.port, self._binary.version
            _log.info("nats-server started", pid=process.pid, port=port, version=version)
            return
        alive = process.alive()
        self._discard(process)
        reason = f"no answer within {_READY_S:.0f} s" if alive else self._last_words(process)
        raise StartError(f"nats-server does not start ({reason}); its log is {self._files.log}")

    def _spawn(self) -> ServerProcess:
        """Starts the program in a session of its own, where neither a terminal nor our end reaches it."""
        try:
            with self._files.output.open("wb") as output:
                child = subprocess.Popen(
                    [self._binary.path, "-c", self._files.config],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartError(f"{self._binary.path} cannot be started ({error.strerror})") from None
        process = ServerProcess(child.pid, str(self._files.config), child, self._clock)
        try:
            self._files.pid.write_text(str(child.pid))
        except OSError as error:
            process.kill()
            raise StartError(f"{self._files.pid}: cannot be written ({error.strerror})") from None
        return process

    def _discard(self, process: ServerProcess) -> None:
        process.kill()
        self._process = None
        with suppress(OSError):
            self._files.pid.unlink(missing_ok=True)

    async def _ready(self, process: ServerProcess) -> bool:
        """Returns whether our server answers on our port, once it does, or has ended, or 10 s have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while process.alive():
                    if await name_at(self._listener.port, self._listener.reached_at) == self._name:
                        return True
                    await self._clock.sleep(_POLL_S)
        return False

    def _make_directory(self) -> None:
        try:
            self._files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{self._files.directory}: cannot be written ({error.strerror})") from None

    def _check_not_left(self) -> None:
        """Keeps a server from going on alone with nothing, whose streams are kept by several."""
        shared = self._files.shared_streams
        if self._listener.cluster is None and shared.is_dir() and any(shared.iterdir()):
            raise StartError(
                f"{shared} holds this host's part of what several nats-servers keep together: "
                "set PMOVES_NATS_CLUSTER as it was, or move that directory away to go on without it"
            )

    def _prepare(self) -> bool:
        """Writes the server's name, where it listens, who may log in, and its configuration.

        Returns whether the configuration changed.
        """
        try:
            cluster = self._listener.cluster
            named = cluster.own if cluster else read_text(self._files.name).strip()
            self._name = named or f"pmoves-mesh-{secrets.token_hex(8)}"
            write_text(self._files.name, self._name)
            write_text(self._files.listener, msgspec.json.encode(self._listener).decode())
            access = self._secured.access if self._secured else None
            if access is not None:
                self._files.access.mkdir(mode=0o700, exist_ok=True)
                write_text(self._files.access / f"{access.mesh}.json", encode(access).decode())
        except OSError as error:
            raise StartError(f"{self._files.directory}: cannot be written ({error.strerror})") from None
        return self._door.configure()

    def _keep_streams(self, before: Listener | None) -> None:
        """Keeps what a server holds that comes to listen beyond loopback, or no more does.

        A plain server has one account, a secured one has one for each mesh.
        """
        had = before.mesh if before and before.secured else _PLAIN_ACCOUNT
        has = self._listener.mesh if self._listener.secured else _PLAIN_ACCOUNT
        try:
            if self._listener.cluster is None and put_back(self._files):
                _log.info("streams kept", account=has, before="a cluster that was not begun")
            if move_account(self._files, had, has):
                _log.info("streams kept", account=has, before=had)
            if self._may_carry() and set_aside(self._files):
                _log.info("streams set aside, to be carried into the cluster", account=has)
        except OSError as error:
            raise StartError(f"{self._files.streams}: cannot be moved ({error.strerror})") from None

    def _may_carry(self) -> bool:
        """Whether this node may carry what it held alone into the cluster: only one node makes streams."""
        cluster, access = self._listener.cluster, self._secured.access if self._secured else None
        if cluster is None or access is None:
            return False
        return access.owner == spiffe_id(access.mesh, "node", cluster.own)

    def _last_words(self, process: ServerProcess) -> str:
        """Returns how a process ended, and the last complaint that it left."""
        logged = [line for line in last_lines(self._files.log) if line.startswith(f"[{process.pid}]")]
        complaints = [line for line in logged if "[FTL]" in line or "[ERR]" in line]
        words = complaints or last_lines(self._files.output)
        return f"{process.ending()}: {words[-1][:200]}" if words else process.ending()


def restart_pause_s(failures: int) -> float:
    """Returns the seconds to wait before a restart, after so many in a row.

    0, then 0.1 doubled each time, up to 5.
    """
    doublings = min(failures, 10) - 1  # more than enough to reach the longest pause
    return min(_PAUSE_MIN_S * 2**doublings, _PAUSE_MAX_S) if failures else 0.0


def _listener(port: int, how: Secured | Spoke | None) -> Listener:
    if not isinstance(how, Secured):
        return Listener(port=port, spoke=how)
    return Listener(
        port=port,
        host=how.host,
        mesh=how.mesh,
        certificate=str(how.certificate.absolute()),
        key=str(how.key.absolute()),
        leaf_port=how.leaf_port,
        cluster=how.cluster,
    )


def _place(listener: Listener) -> tuple[str, int, bool, str, int, Cluster | None]:
    """Returns what of a listener a server cannot change while it runs."""
    fixed = (listener.host, listener.port, listener.secured, listener.mesh)
    return *fixed, listener.leaf_port, listener.cluster
