"""The container engine of this host, asked through its Unix socket: Docker's API, which Podman speaks too.

Source: Docker Engine API 1.24 and later: `/containers/json`, `/containers/{id}/json`, `/events`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from pmoves_mesh.agent.containers.inspected import Container, EngineEvent, Listed
from pmoves_mesh.errors import MeshError

DOCKER_SOCKET: Final = Path("/var/run/docker.sock")
PODMAN_SOCKET: Final = Path("/run/podman/podman.sock")
CONTAINER_BYTES_MAX: Final = 1024 * 1024
LIST_BYTES_MAX: Final = 16 * 1024 * 1024

_CHUNK_BYTES: Final = 64 * 1024
_EVENT_BYTES_MAX: Final = 256 * 1024
_T = TypeVar("_T")


class EngineAwayError(MeshError):
    """No engine answers here, or not in a way that is understood; the same call may succeed later."""

    retryable: ClassVar[bool] = True

    def __init__(self, problem: str, *, absent: bool = False) -> None:
        """Takes what is wrong, and whether that is only that no engine is installed."""
        self.absent = absent
        super().__init__(problem)


class OddContainerError(EngineAwayError):
    """An engine answers, but tells of one container nothing that can be used; of others it may well."""


class Engine:
    """Asks the first engine that answers at one of several sockets; enter it before use.

    Whoever calls sets the time that an answer may take.
    """

    def __init__(self, sockets: Sequence[Path] = (DOCKER_SOCKET,)) -> None:
        """Takes where engines may listen; the first one that takes a connection is asked."""
        self._sockets = tuple(sockets)
        self._sessions: dict[Path, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for socket in self._sockets:
                connector = aiohttp.UnixConnector(str(socket), limit=0, force_close=True)
                session = aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(),
                    trust_env=False,
                    read_bufsize=_EVENT_BYTES_MAX,
                )
                self._sessions[socket] = await stack.enter_async_context(session)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._entered.aclose()

    async def inspect(self, container: str) -> Container | None:
        """Returns a container by its id or name, or None if there is none.

        Raises:
            OddContainerError: if the engine says something else of it.
            EngineAwayError: if no engine says.
        """
        async with self._asked(f"/containers/{quote(container, safe='')}/json", {}) as response:
            if response.status == 404:
                return None
            try:
                _check_status(response)
                return _understood(await _read(response, CONTAINER_BYTES_MAX), Container)
            except EngineAwayError as error:
                raise OddContainerError(str(error)) from None

    async def running(self, label: str) -> list[str]:
        """Returns the ids of the containers that have a label and are not stopped.

        Raises:
            EngineAwayError: if no engine says.
        """
        async with self._asked("/containers/json", {"filters": _filters(label=label)}) as response:
            listed = _understood(await _read(response, LIST_BYTES_MAX), list[Listed])
        return [one.id for one in listed]

    async def events(self, since_s: int) -> AsyncGenerator[EngineEvent, None]:
        """Yields what happens to containers from a time on, the past first, until the engine ends it.

        Some releases of Podman send nothing, not even the head of their answer, before the first event.

        Args:
            since_s: unix seconds.

        Raises:
            EngineAwayError: if the engine is not there, or no longer.
        """
        query = {"since": str(since_s), "filters": _filters(type="container")}
        async with self._asked("/events", query) as response:
            _check_status(response)
            rest = b""
            while chunk := await response.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, map(bytes.strip, lines)):
                    yield _understood(line, EngineEvent)
                if len(rest) > _EVENT_BYTES_MAX:
                    raise EngineAwayError("what the Docker engine answers is not understood")

    @asynccontextmanager
    async def _asked(self, path: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with await self._connected(path, query) as response:
                yield response
        except (aiohttp.ClientError, OSError):
            raise EngineAwayError("the Docker engine broke off its answer") from None

    async def _connected(self, path: str, query: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Returns the answer of the first socket at which an engine is."""
        problems = []
        for socket, session in self._sessions.items():
            try:
                return await session.get(f"http://docker{path}", params=query)
            except aiohttp.ClientConnectorError as error:
                problems.append((socket, error.os_error))
        # That there is no such file says less than why one that is there cannot be used.
        problems.sort(key=lambda problem: problem[1].errno == errno.ENOENT)
        socket, failed = problems[0]
        absent = failed.errno == errno.ENOENT
        raise EngineAwayError(f"no Docker engine at {socket} ({failed.strerror})", absent=absent)


def sockets_of(setting: str) -> tuple[Path, ...]:
    """Returns where engines may listen: where the setting says, else where Docker and Podman do."""
    if setting.startswith("/"):
        return (Path(setting),)
    return (DOCKER_SOCKET, PODMAN_SOCKET, Path(f"/run/user/{os.getuid()}/podman/podman.sock"))


def _filters(**wanted: str) -> str:
    return msgspec.json.encode({name: [value] for name, value in wanted.items()}).decode()


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise EngineAwayError(f"the Docker engine answers with HTTP {response.status}")


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    _check_status(response)
    body = bytearray()
    while len(body) <= bytes_max and (chunk := await response.content.read(_CHUNK_BYTES)):
        body += chunk
    return bytes(body)


def _understood(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EngineAwayError("what the Docker engine answers is not understood") from None
