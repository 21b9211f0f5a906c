"""What a program says to its agent over HTTP, and what the agent's refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from pmoves_mesh.core.choice import Preference
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import (
    InvalidFieldError,
    MeshError,
    NotOwnerError,
    ServiceNotFound,
    WriteRefusedError,
)
from pmoves_mesh.sdk.instance import Instance
from pmoves_mesh.sdk.place import Place

Said = Literal["healthy", "unhealthy"]
"""How a program may say that it is."""

_Shape = TypeVar("_Shape")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, connect=3.0)
_WATCHING: Final = aiohttp.ClientTimeout(total=None, connect=3.0, sock_read=40.0)
"""A watch says something every 15 s; after two such times the other side is taken for dead."""


class AgentUnavailable(MeshError):
    """The agent does not answer, or cannot do now what it is asked; the same call may succeed later."""

    retryable = True


class AgentIndex(Struct, frozen=True, kw_only=True):
    """Which agent answers."""

    mesh: str
    node: str


class _Registered(Struct, frozen=True, kw_only=True):
    service: Instance


class _Discovered(Struct, frozen=True, kw_only=True):
    services: list[Instance]


class _Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457."""

    title: str = ""
    detail: str = ""
    field: str = ""
    nodes: tuple[str, ...] = ()


class AgentApi:
    """Asks one agent; enter it before use.

    Every method raises `AgentUnavailable` if the agent does not answer, and what it refuses with otherwise.
    """

    def __init__(self, place: Place, token: str | None) -> None:
        self.url: Final = place.url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = True if place.context is None else place.context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def index(self) -> AgentIndex:
        """Returns which agent this is."""
        return _decoded(await self._ask("GET", "/"), AgentIndex, self.url)

    async def register(self, wanted: Registration) -> Instance:
        """Registers an instance, or updates it, and returns it as it is registered now."""
        raw = await self._ask("POST", "/api/services", wanted, name=wanted.name)
        return _decoded(raw, _Registered, self.url).service

    async def deregister(self, name: str, instance_id: str) -> None:
        """Takes an instance off the agent's node."""
        path = f"/api/services/{quote(name, safe='')}?id={quote(instance_id)}"
        await self._ask("DELETE", path, name=name)

    async def discover(
        self, capabilities: Sequence[str], where: Mapping[str, Any], prefer: Preference, limit: int | None
    ) -> list[Instance]:
        """Returns the instances that the agent would send a client to, the best first."""
        body = {"capabilities": capabilities, "where": where, "prefer": prefer}
        asked = body if limit is None else {**body, "limit": limit}
        return _decoded(await self._ask("POST", "/api/discover", asked), _Discovered, self.url).services

    async def report(self, name: str, instance_id: str, status: Said, output: str) -> None:
        """Tells how an instance is."""
        path = f"/api/services/{quote(name, safe='')}/health?id={quote(instance_id)}"
        await self._ask("PUT", path, {"status": status, "output": output}, name=name)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yields the parts of the agent's stream of events as they arrive, the whole mesh first."""
        headers = {"Accept": "text/event-stream"}
        try:
            async with self._http.get(
                f"{self.url}/api/watch", headers=headers, timeout=_WATCHING
            ) as response:
                if response.status >= 400:
                    raise refusal(response.status, await response.read())
                yield response.content.iter_any()
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise self._away(error) from None

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise AgentUnavailable("this mesh was left, or not entered yet")
        return self._session

    async def _ask(self, method: str, path: str, body: object = None, *, name: str = "") -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            async with self._http.request(
                method, self.url + path, data=data, headers=headers, timeout=_TIMEOUT
            ) as response:
                raw = await response.read()
                if response.status >= 400:
                    raise refusal(response.status, raw, name)
                return raw
        except (OSError, TimeoutError, asyncio.IncompleteReadError, aiohttp.ClientError) as error:
            raise self._away(error) from None

    def _away(self, error: Exception) -> AgentUnavailable:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return AgentUnavailable(f"no agent answers at {self.url}: {reason}")


def refusal(status: int, body: bytes, name: str = "") -> MeshError:
    """Returns what an agent's refusal means, as the error that its own code would raise.

    Args:
        status: of the answer.
        body: of the answer.
        name: the service that was spoken of.

    Source: RFC 9457.
    """
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    text = problem.detail or problem.title or f"HTTP status {status}"
    match status:
        case 400 | 413 | 422:
            return InvalidFieldError(problem.field or "body", text.removeprefix(f"{problem.field}: "))
        case 401 | 403:
            return WriteRefusedError(text, token_helps=status == 401)
        case 404 if name:
            return ServiceNotFound(name)
        case 409 if name:
            return NotOwnerError(name, problem.nodes)
        case 408 | 429 | 500 | 502 | 503 | 504:
            return AgentUnavailable(f"the agent cannot do that now: {text}")
        case _:
            return MeshError(text)


def _decoded(raw: bytes, kind: type[_Shape], url: str) -> _Shape:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError:
        raise AgentUnavailable(f"what answers at {url} is not a pmoves-mesh agent") from None
