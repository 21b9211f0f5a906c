"""The connection to NATS that never gives up: a session, and after its loss the next one.

    async with Connection(settings) as connection:
        await connection.wait_connected(5.0)

Entering it waits for nothing, so an agent starts while NATS is away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Final, Self

import structlog

from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log import credentials
from pmoves_mesh.log.credentials import NatsSettings, redact
from pmoves_mesh.log.session import Session, end

__all__ = ["Connection", "NatsSettings", "redact"]

_RETRY_MIN_S: Final = 0.1
_RETRY_MAX_S: Final = 0.2
_CORE_BATCH_MAX: Final = 100

_log = structlog.get_logger()
_random = secrets.SystemRandom()


class Connection:
    """Keeps a session with one of the servers, for ever.

    A cluster's servers are all listed in the settings; they are tried in turn.
    """

    def __init__(self, settings: NatsSettings) -> None:
        """Checks the settings.

        Raises:
            ConfigError: if a server's URL is none.
        """
        credentials.check_servers(settings.servers)
        self._settings = settings
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._generation = 0
        self._problem: LogError | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="nats-connection")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end(self._task)
            if not self._task.cancelled():
                self._task.result()  # it never ends by itself: this raises what broke it

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment."""
        return self._session is not None and not self._session.lost.is_set()

    @property
    def generation(self) -> int:
        """How many sessions there have been; it grows with every reconnect."""
        return self._generation

    @property
    def id(self) -> str:
        """Names the session among all that the mesh's servers ever had; empty if there is none."""
        return self._session.id if self._session is not None and self.connected else ""

    @property
    def problem(self) -> LogError | None:
        """Why there is no session: `RightMissing` if the login is refused; None if there is one."""
        return None if self.connected else self._problem

    @property
    def server_url(self) -> str:
        """The server of the session, or the configured ones, without any login."""
        session = self._session
        return session.url if session else redact(",".join(self._settings.servers))

    def session(self) -> Session:
        """Returns the session that is up.

        Raises:
            LogUnavailable: if there is none now.
        """
        session = self._session
        if session is None or session.lost.is_set():
            raise LogUnavailable(str(self._problem or f"not connected to {self.server_url}"))
        return session

    async def next_session(self) -> Session:
        """Returns the session that is up, or waits until there is one."""
        while not self.connected:
            self._up.clear()
            await self._up.wait()
        return self.session()

    async def wait_connected(self, timeout_s: float) -> None:
        """Returns once there is a session.

        Raises:
            RightMissing: if there is none after `timeout_s` seconds because the login is refused.
            LogUnavailable: if there is none for another reason.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.next_session()
        except TimeoutError:
            unreachable = LogUnavailable(f"{self.server_url} was not reached within {timeout_s:g} s")
            raise self._problem or unreachable from None

    async def publish_core(self, subject: str, payload: bytes) -> None:
        """Publishes on core NATS: whoever listens now gets it, nobody confirms it.

        Raises:
            LogUnavailable: if there is no session.
        """
        await self.session().publish(subject, payload)

    async def subscribe_core(self, subject: str, queue: str = "") -> AsyncGenerator[tuple[str, bytes], None]:
        """Yields subject and payload of what is published on core NATS, without end.

        What is published while there is no session is missed, and so is what a slow reader leaves
        waiting beyond the bounds of its queue.

        Args:
            subject: may hold wildcards.
            queue: members of a queue group share the messages.

        Raises:
            RightMissing: if this user may not subscribe there.
        """
        while True:
            session = await self.next_session()
            try:
                async with await session.subscribe(subject, queue) as inbox:
                    while True:
                        for message in await inbox.take(_CORE_BATCH_MAX, None):
                            yield message.subject, message.data
            except LogUnavailable:
                continue

    async def _run(self) -> None:
        servers = self._settings.servers
        turn = 0 if self._settings.ordered else _random.randrange(len(servers))
        while True:
            await self._attempt(servers[turn % len(servers)])
            turn += 1
            await asyncio.sleep(_random.uniform(_RETRY_MIN_S, _RETRY_MAX_S))

    async def _attempt(self, server: str) -> None:
        """Makes one session and stays until it is lost, or notes why there is none."""
        try:
            login = await asyncio.to_thread(credentials.load, self._settings, server)
        except LogError as error:
            self._note(error)
            return
        session = Session(login)
        try:
            await session.start()
            self._begin(session)
            await session.watch()
            self._note(LogUnavailable(f"the connection to {session.url} is lost: {session.problem}"))
        except LogError as error:
            self._note(error)
        finally:
            self._session = None
            await session.close()

    def _begin(self, session: Session) -> None:
        self._session = session
        self._generation += 1
        self._problem = None
        self._up.set()
        _log.info("nats_connected", server=session.url, generation=self._generation)

    def _note(self, problem: LogError) -> None:
        """Keeps a problem, and logs it unless it is the one that was logged last."""
        if str(problem) != str(self._problem):
            _log.warning("nats_unavailable", problem=str(problem))
        self._problem = problem
