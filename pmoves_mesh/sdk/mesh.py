"""The mesh as a program sees it: register yourself, find others, hear of changes, talk.

async with Mesh.connect() as mesh, mesh.register("whisper", port=9000, capabilities=["stt"]):
    rag = mesh.resolve("hi-rag")
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

import structlog

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config, load
from pmoves_mesh.core.application import ApplicationEvent
from pmoves_mesh.core.choice import Preference
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.pki import keystore
from pmoves_mesh.sdk.agent_api import AgentApi
from pmoves_mesh.sdk.agent_source import AgentSource
from pmoves_mesh.sdk.balancer import Balancer
from pmoves_mesh.sdk.changes import Change, Changes
from pmoves_mesh.sdk.directory import Directory, Source
from pmoves_mesh.sdk.instance import Instance
from pmoves_mesh.sdk.logs import hand_over
from pmoves_mesh.sdk.messages import Message, Messages
from pmoves_mesh.sdk.place import agent_place, identity_files, nats_settings
from pmoves_mesh.sdk.registration import Details, Registered, wanted_of
from pmoves_mesh.sdk.stream_source import StreamSource
from pmoves_mesh.sdk.tasks import Tasks, end

if TYPE_CHECKING:
    from pmoves_mesh.sdk.sync import SyncMesh

_log: Final = structlog.get_logger(__name__)

_KNOWN_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a program takes part in a mesh.

    Attributes:
        url: the agent's address; None for the one of the settings.
        nats: the servers whose stream is followed without an agent; None to ask the agent.
        identity: the service whose identity this program has; empty to speak as this node.
    """

    config: Config
    url: str | None = None
    nats: tuple[str, ...] | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class _Parts:
    api: AgentApi
    source: Source
    messages: Messages
    tasks: Tasks


class Mesh:
    """A program's place in the mesh: enter it before use, leave it to leave the mesh."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._clock = SystemClock()
        self._random = random.Random().random  # noqa: S311 - it spreads load, and keeps no secret
        self._directory = Directory()
        self._balancer = Balancer(self._directory, self._clock, self._random)
        self._choose = self._balancer.choose
        self._registered: Final[list[Registered]] = []
        self._informed = asyncio.Event()
        self._stack = AsyncExitStack()
        self._parts: _Parts | None = None

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        nats: str | Sequence[str] | None = None,
        identity: str = "",
        config: Config | None = None,
    ) -> Self:
        """Returns a mesh to enter; what is not given the environment and `env.shared` say.

        Args:
            url: the agent's address; by default `SERVICE_REGISTRY_URL`, else this host's agent.
            nats: NATS servers, to follow the stream oneself instead of asking an agent.
            identity: the service whose identity (`pmoves-mesh certs issue --service`) this program has;
                by default it speaks as the node, if it may read the node's files.
            config: the settings, in the place of the environment's.

        Raises:
            ConfigError: if a setting cannot be used.
        """
        return cls(_terms(url, nats, identity, config))

    @classmethod
    def connect_sync(
        cls,
        url: str | None = None,
        *,
        nats: str | Sequence[str] | None = None,
        identity: str = "",
        config: Config | None = None,
    ) -> SyncMesh:
        """Returns the same for programs without an event loop; see `connect`."""
        from pmoves_mesh.sdk.sync import SyncMesh  # noqa: PLC0415 - it stands on this module

        terms = _terms(url, nats, identity, config)
        return SyncMesh(lambda: cls(terms))

    # Its life

    async def __aenter__(self) -> Self:
        """Connects, and waits up to 5 s until the mesh was seen; an agent that is away is waited for on.

        Raises:
            ConfigError: if nobody can know where the agent is.
            PkiError: if an identity cannot be used.
            LogError: if the stream is to be followed, and cannot be reached or may not be read.
        """
        hand_over()
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def _begin(self) -> None:
        config, stack = self._terms.config, self._stack
        files = await asyncio.to_thread(identity_files, config, self._terms.identity)
        place = await asyncio.to_thread(agent_place, config, self._terms.url, files)
        token = config.http_token.reveal() if config.http_token else None
        api = await stack.enter_async_context(AgentApi(place, token))
        messages = Messages(lambda: nats_settings(config, self._terms.nats or (), files), stack)
        stack.enter_context(self._directory.listened(self._balancer.notice))
        source = await self._source_of(api, messages)
        tasks = await stack.enter_async_context(Tasks())
        self._parts = _Parts(api, source, messages, tasks)
        tasks.start(source.run(), "mesh-source")
        tasks.start(self._attend(source), "mesh-attend")
        try:
            async with asyncio.timeout(_KNOWN_S):
                await self._informed.wait()
        except TimeoutError:
            _log.warning("the mesh was not seen yet; waiting on", detail=source.problem)

    async def _source_of(self, api: AgentApi, messages: Messages) -> Source:
        config = self._terms.config
        if self._terms.nats is None:
            return AgentSource(api, self._directory, self._clock, self._random)
        trust = Trust(config.mesh, await asyncio.to_thread(keystore.read_roots, config.tls_dir))
        source = StreamSource(
            await messages.connected(), trust, self._directory, self._clock, unsigned=config.accept_unsigned
        )
        await source.check_rights()
        self._directory.node = config.node
        return source

    async def _attend(self, source: Source) -> None:
        """Sees to what is registered whenever the mesh was taken in again, for ever."""
        while True:
            await source.anew.wait()
            source.anew.clear()
            self._informed.set()
            for registered in self._registered:
                registered.look()

    @property
    def _entered(self) -> _Parts:
        """What there is while the context lasts.

        Raises:
            RuntimeError: before it and after it.
        """
        if self._parts is None:
            raise RuntimeError("enter the mesh first: async with Mesh.connect() as mesh")
        return self._parts

    @property
    def node(self) -> str:
        """The node of this host, or of the agent that is asked; empty until it is known."""
        return self._directory.node

    @property
    def position(self) -> int:
        """The position of the stream up to which the mesh is known."""
        return self._directory.position

    @property
    def problem(self) -> str:
        """Why the mesh is not followed now, so that answers may be old; empty while it is."""
        return self._entered.source.problem

    # Being found

    @asynccontextmanager
    async def register(
        self, name: str, *, port: int = 0, **details: Unpack[Details]
    ) -> AsyncIterator[Registered]:
        """Registers this program while the context lasts, and deregisters it at its end.

        It is registered again if the agent comes back without it. Unless the agent is told how to check
        it, it reports by itself that it lives: killed, it is unhealthy after 10 s, and gone a minute later.
        If the agent is away it is registered later; `Registered.problem` tells.

        Args:
            name: the service's.
            port: where it listens; 0 if it does not.
            details: whatever else is to be known; see `Details`.

        Raises:
            InvalidFieldError: if something that is given cannot be.
            WriteRefusedError: if the agent does not let this program register.
        """
        parts = self._entered
        registered = Registered(parts.api, self._directory, self._clock, wanted_of(name, port, details))
        await registered.begin()
        keeping = parts.tasks.start(registered.keep(), f"mesh-keep-{name}")
        self._registered.append(registered)
        try:
            yield registered
        finally:
            self._registered.remove(registered)
            await end(keeping)
            await registered.leave()

    # Finding others

    def resolve(self, name: str) -> Instance:
        """Returns where the next call to a service goes: from memory, with no network.

        Healthy instances come before those that nobody checks, and those before the sick; of these
        the ones on the own node; of these one by its weight, and by what `using` and `failed` tell.

        Raises:
            ServiceNotFound: if none of its instances can be called.
            NothingKnownError: if the mesh was not seen yet.
        """
        return self._choose(name).instance

    @contextmanager
    def using(self, name: str) -> Iterator[Instance]:
        """Resolves for as long as a call takes, so that calls spread by what is under way.

        If the body raises, the instance is shunned for a second, and twice as long each further time.

        Raises:
            ServiceNotFound: as `resolve`.
            NothingKnownError: as `resolve`.
        """
        seat = self._balancer.begin(name)
        failed = False
        try:
            yield seat.instance
        except Exception:
            failed = True
            raise
        finally:
            self._balancer.end(seat, failed=failed)

    def failed(self, instance: Instance) -> None:
        """Tells that a call to an instance failed that `resolve` gave: it is shunned for a while."""
        self._balancer.blame(instance)

    async def discover(
        self,
        *capabilities: str,
        name: str | None = None,
        where: Mapping[str, Any] | None = None,
        prefer: Preference | None = None,
        limit: int | None = None,
    ) -> list[Instance]:
        """Returns the instances that can serve all capabilities, the best first, from memory.

        What nodes have, how loaded they are and how far away, the agent knows: it is asked where
        `where` or `prefer` is given.

        Args:
            capabilities: all must match; none match every instance.
            name: only instances of this service.
            where: conditions by path, such as `{"resources.gpu.memory_gb": {"gte": 8}}`.
            prefer: `local`, `least_loaded` or `nearest`: what decides among those that are equally well.
            limit: how many are wanted at most, 1 to 1000; None for all.

        Raises:
            NothingKnownError: if the mesh is not seen within 5 s.
            InvalidFieldError: if a condition cannot be one.
            AgentUnavailable: if the agent is to be asked, and does not answer.
        """
        if where is not None or prefer is not None:
            named = {} if name is None else {"name": name}
            api = self._entered.api
            return await api.discover(capabilities, {**(where or {}), **named}, prefer or "local", limit)
        if not self._directory.is_informed:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KNOWN_S):
                    await self._informed.wait()
        return self._directory.discover(capabilities, name=name)[:limit]

    def watch(self, name: str | None = None, *capabilities: str) -> AsyncGenerator[Change, None]:
        """Yields every instance as `added`, then each that comes, changes or goes, without end.

        Args:
            name: only instances of this service; None for all.
            capabilities: only instances that have all of these.
        """
        return Changes(self._directory, name, frozenset(capabilities)).follow()

    # Talking

    async def publish(self, subject: str, payload: object) -> None:
        """Publishes on an application subject; see `Messages.publish`."""
        await self._entered.messages.publish(subject, payload)

    async def record(self, event: ApplicationEvent, *, source: str = "") -> int:
        """Tells an event so that it is kept, and returns its position in the stream; see `Messages.record`.

        Args:
            event: `FileAdded`, `TranscriptReady` or `ToolExecuted`.
            source: the service that tells it; by default what this program registered first, else the node.

        Raises:
            LogUnavailable: if no stream has confirmed it within 10 s; it may be kept all the same.
            RightMissing: if this identity may not publish there.
        """
        names = [registered.instance.name for registered in self._registered if registered.instance]
        own = source or next(iter(names), self.node)
        return await self._entered.messages.record(event, own)

    def subscribe(self, subject: str, *, queue: str = "") -> AsyncGenerator[Message, None]:
        """Yields what is published on a subject; see `Messages.subscribe`."""
        return self._entered.messages.subscribe(subject, queue)


def _terms(url: str | None, nats: str | Sequence[str] | None, identity: str, config: Config | None) -> Terms:
    servers = (nats,) if isinstance(nats, str) else None if nats is None else tuple(nats)
    settings = config or load(os.environ, Path.cwd())
    return Terms(config=settings, url=url, nats=servers, identity=identity)
