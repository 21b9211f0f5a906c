"""Letting a mesh's members in: the access files of a server's directory, and the server told of them.

Several agents may share one server, each with a mesh of its own. All of them write through here, one
at a time, and each renders the whole configuration from what all have written.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from pmoves_mesh.errors import StartError
from pmoves_mesh.ports import Clock
from pmoves_mesh.server import access as access_files
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.files import lines_after, read_text, running_pid, size_of, write_text
from pmoves_mesh.server.host import stranger_at
from pmoves_mesh.server.settings import Listener, ServerFiles, anchors, leaf_keys, render

_LOCK_S: Final = 15.0
_APPLIED_S: Final = 10.0
_POLL_S: Final = 0.02
_APPLIED: Final = "Reloaded server configuration"
_REFUSED: Final = "Failed to reload server configuration: "
_FIXED: Final = "reload not supported for LeafNode"


_log: Final = structlog.get_logger(__name__)


class RestartNeeded(StartError):
    """A server takes what it was told only when it is started anew: who may be a leaf node, it reads once."""


class Door:
    """Changes who may log in to the server of one directory, while it runs or before it does.

    Args:
        files: of the server.
        clock: paces the waiting for the lock and for the server.
    """

    def __init__(self, files: ServerFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keeps all other agents of this host from changing anything meanwhile.

        Raises:
            StartError: if the directory cannot be used, or another agent keeps it for 15 s.
        """
        directory = self._files.directory
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StartError(f"{directory}: cannot be used ({error.strerror})") from None
        try:
            await self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    async def _lock(self, descriptor: int) -> None:
        try:
            async with asyncio.timeout(_LOCK_S):
                while not _try_lock(descriptor):
                    await self._clock.sleep(_POLL_S)
        except TimeoutError:
            problem = f"another agent has been changing it for {_LOCK_S:.0f} s"
            raise StartError(f"{self._files.directory}: {problem}") from None

    async def admit(self, access: Access) -> None:
        """Lets the members of a mesh in, and no others of it; returns when the server has taken it.

        Connections whose user, rights and key stay as they were stay open.

        Raises:
            RestartNeeded: if the server takes it at its next start.
            StartError: if the server refuses it, which then goes on as before.
        """
        text = access_files.encode(access).decode()
        path = self._files.access / f"{access.mesh}.json"
        async with self.held():
            before = await asyncio.to_thread(read_text, path)
            await asyncio.to_thread(self._put, path, text)
            try:
                await self._apply(always=False)
            except RestartNeeded:
                raise
            except StartError:
                await asyncio.to_thread(self._put, path, before)
                await asyncio.to_thread(self.configure)
                raise

    async def reload(self) -> None:
        """Makes the server read its files anew, certificates too; returns when it has.

        Raises:
            StartError: if the server refuses them, which then goes on as before.
        """
        async with self.held():
            await self._apply(always=True)

    def listener(self) -> Listener | None:
        """Returns where the server listens, as its own agent has set it; None if there is no such."""
        text = read_text(self._files.listener)
        try:
            return msgspec.json.decode(text, type=Listener) if text else None
        except msgspec.MsgspecError:
            return None

    def configure(self) -> bool:
        """Writes the configuration from what all agents have set; returns whether it changed.

        Raises:
            StartError: if it cannot be written, or nobody could log in.
        """
        listener = self.listener()
        if listener is None:
            raise StartError(f"{self._files.directory} is not the directory of a nats-server")
        accesses = self._accesses(listener) if listener.secured else []
        listener = self._spared(listener, accesses)
        if listener.secured and not accesses:
            raise StartError(f"who may log in to the nats-server of {self._files.directory} is not known")
        name = read_text(self._files.name).strip()
        try:
            changed = accesses != [] and write_text(self._files.anchors, anchors(accesses))
            config = render(self._files, name, listener, accesses)
            return write_text(self._files.config, config) or changed
        except OSError as error:
            raise StartError(f"{self._files.directory}: cannot be written ({error.strerror})") from None

    def _spared(self, listener: Listener, accesses: Sequence[Access]) -> Listener:
        """Returns a listener without leaf nodes where their port is another's: all others matter more."""
        if not leaf_keys(listener, accesses):
            return listener
        stranger = stranger_at(listener.leaf_port, listener.host, running_pid(self._files))
        if not stranger:
            return listener
        problem = f"port {listener.leaf_port} is taken by {stranger}: set PMOVES_LEAF_PORT to a free one"
        _log.error("leaf nodes are not taken", detail=problem)
        return msgspec.structs.replace(listener, leaf_port=0)

    async def _apply(self, *, always: bool) -> None:
        changed = await asyncio.to_thread(self.configure)
        pid = await asyncio.to_thread(running_pid, self._files)
        if pid is not None and (changed or always):
            await self._signal(pid)

    async def _signal(self, pid: int) -> None:
        """Tells the server to read its files, and returns when its log says that it did."""
        mark = await asyncio.to_thread(size_of, self._files.log)
        try:
            os.kill(pid, signal.SIGHUP)
            async with asyncio.timeout(_APPLIED_S):
                while await asyncio.to_thread(running_pid, self._files) == pid:
                    for line in await asyncio.to_thread(lines_after, self._files.log, mark):
                        if _APPLIED in line:
                            return
                        if _REFUSED in line:
                            reason = line.partition(_REFUSED)[2]
                            if _FIXED in reason:
                                raise RestartNeeded(f"nats-server is to be started anew: {reason[:200]}")
                            raise StartError(f"nats-server does not take its configuration: {reason[:200]}")
                    await self._clock.sleep(_POLL_S)
        except ProcessLookupError:
            return  # whoever starts it again starts it with the new configuration
        except PermissionError:
            raise StartError(f"the nats-server (pid {pid}) is another user's: it cannot be told") from None
        except TimeoutError:
            problem = f"has not taken its configuration within {_APPLIED_S:.0f} s"
            raise StartError(f"nats-server (pid {pid}) {problem}; its log is {self._files.log}") from None

    def _put(self, path: Path, text: str) -> None:
        """Puts an access file in its place; one without text is removed."""
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if text:
                write_text(path, text)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(f"{path}: cannot be written ({error.strerror})") from None

    def _accesses(self, listener: Listener) -> list[Access]:
        """Returns who may log in, the server's own mesh first; a guest's file that is no use is left out."""
        found = []
        for path in sorted(self._files.access.glob("*.json")):
            if listener.cluster is not None and path.stem != listener.mesh:
                continue  # a guest of the time when it was alone: the other servers do not know it
            try:
                access = _read_access(path)
            except (OSError, StartError) as error:
                if path.stem == listener.mesh:
                    raise StartError(f"{path}: {error}") from None
                _log.warning("a guest mesh is not let in", path=str(path), reason=str(error))
                continue
            if access.certificate and not _are_readable(access.certificate, access.key):
                _log.warning("a guest mesh has no server certificate", mesh=access.mesh)
                access = msgspec.structs.replace(access, certificate="", key="")
            found.append(access)
        return sorted(found, key=lambda access: access.mesh != listener.mesh)


class GuestDoor:
    """Lets a mesh in that is a guest on the server of another agent of this host.

    Args:
        directory: `nats` below that agent's data directory.
        clock: paces the waiting.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory.absolute()
        self._door = Door(ServerFiles(self._directory), clock)

    async def admit(self, access: Access) -> None:
        """Lets the members of the guest mesh in, and no others of it; returns when the server has taken it.

        Raises:
            StartError: if there is no such server, it cannot keep meshes apart, the mesh is the
                server's own, or the server refuses it; says what to set.
        """
        await self._check(access.mesh)
        await self._door.admit(access)

    async def reload(self) -> None:
        """Makes the server read its files anew, as after a renewal of the guest's server certificate.

        Raises:
            StartError: if there is no such server, or it refuses them.
        """
        await self._check("")
        await self._door.reload()

    async def _check(self, mesh: str) -> None:
        listener = await asyncio.to_thread(self._door.listener)
        if listener is None:
            raise StartError(
                f"{self._directory} is not the directory of a nats-server that an agent of this host runs: "
                "set PMOVES_NATS_DIR to the directory nats below that agent's PMOVES_DATA_DIR, "
                "and start that agent first"
            )
        if not listener.secured:
            raise StartError(
                f"the nats-server of {self._directory} is on loopback and keeps no meshes apart: "
                "set PMOVES_NATS_HOST for the agent that runs it, such as to 0.0.0.0"
            )
        if listener.cluster is not None:
            raise StartError(
                f"the nats-server of {self._directory} is one of several (PMOVES_NATS_CLUSTER), "
                "and the others would not know a guest: give this mesh a nats-server of its own"
            )
        if mesh == listener.mesh:
            raise StartError(
                f"mesh {mesh} is that of the nats-server's own agent: set PMOVES_MESH_NAME to another"
            )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_access(path: Path) -> Access:
    """Returns what an access file says, once it is known to be sound and the server to be able to use it."""
    access = access_files.decode(path.read_bytes())
    if access.mesh != path.stem:
        raise StartError(f"it is that of mesh {access.mesh}")
    anchors([access])
    return access


def _are_readable(*paths: str) -> bool:
    return all(os.access(path, os.R_OK) for path in paths)
