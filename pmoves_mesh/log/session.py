"""One live connection to one nats-server: from its greeting to its loss, then never again.

nats-py's own reconnecting is not used: it keeps requests waiting whose answers can no longer
come, and sends late what the caller has given up. When a session is lost, whatever waits on it
ends at once, and `Connection` makes the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
from typing import Any, Final, NamedTuple

import nats.errors
from nats.aio.msg import Msg

from pmoves_mesh.core.names import JETSTREAM_API
from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing
from pmoves_mesh.log.client import NatsClient
from pmoves_mesh.log.credentials import Login
from pmoves_mesh.log.inbox import Inbox

CONNECT_TIMEOUT_S: Final = 2.0
REQUEST_TIMEOUT_S: Final = 2.0

_PING_INTERVAL_S: Final = 2.0
_PING_TIMEOUT_S: Final = 2
_CLOSE_TIMEOUT_S: Final = 1.0
_UNSERVED_MAX_S: Final = 10.0
"""A cluster has a new leader within 9 s; a server without one for longer is cut off from the others."""

_CANCEL_AGAIN_S: Final = 0.2
_NEVER_S: Final = 10**9
_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')

# nats-py logs tracebacks of errors that it also hands to the callbacks, and those are reported here.
logging.getLogger("nats").setLevel(logging.CRITICAL + 1)

# What nats-py answers at the end of a TLS connection is of no use there, and asyncio says so each time.
logging.getLogger("asyncio").addFilter(lambda record: "eof_received()" not in str(record.msg))


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task until it is over: nats-py swallows a cancellation that arrives while it connects."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCEL_AGAIN_S)


class _Waiting(NamedTuple):
    """A request, and how long whoever sent it gives the server to answer."""

    subject: str
    answer: asyncio.Future[Msg]
    timeout_s: float


class Session:
    """A connection that is up, until `lost` is set.

    Attributes:
        url: of the server, without a login.
        lost: set when the connection is gone; it never comes back.
        problem: why it is gone, or what the server refused last.
    """

    def __init__(self, login: Login) -> None:
        self.url: Final = login.url
        self.lost: Final = asyncio.Event()
        self.problem = ""
        self.client: Final = NatsClient(login)
        self._login = login
        self._tokens = itertools.count(1)
        self._waiting: dict[str, _Waiting] = {}
        self._inboxes: set[Inbox] = set()
        self._reply_prefix = ""
        self._deaf: RightMissing | None = None
        self._unserved_since_s: float | None = None

    @property
    def info(self) -> dict[str, Any]:
        """What the server told of itself in its INFO line."""
        return self.client._server_info  # noqa: SLF001 - nats-py has no accessor for it

    @property
    def id(self) -> str:
        """What the server calls this connection, and the server's own id before it."""
        return f"{self.info.get('server_id', '')}-{self.info.get('client_id', 0)}"

    async def start(self) -> None:
        """Connects and logs in; on failure `close` must still be called.

        Raises:
            LogUnavailable: if the server cannot be reached in time.
            RightMissing: if it refuses the login, or TLS fails.
        """
        login = self._login
        # A task of its own: a deadline around it is lost when nats-py swallows its cancellation.
        opening = asyncio.create_task(self._open(login), name="nats-connect")
        try:
            done, _ = await asyncio.wait((opening,), timeout=CONNECT_TIMEOUT_S)
            if done:
                opening.result()
        except TimeoutError:
            raise LogUnavailable(f"{login.url} does not answer within {CONNECT_TIMEOUT_S:g} s") from None
        except (OSError, nats.errors.Error) as error:
            raise self._connect_error(error) from None
        except (ValueError, TypeError, AttributeError):
            # What nats-py runs into when the other side's greeting is not what it expects.
            raise LogUnavailable(f"{login.url} does not speak the NATS protocol") from None
        finally:
            await end(opening)
            if not opening.cancelled():
                opening.exception()  # seen; what it was is told by whoever gave up waiting
        if not done:
            raise LogUnavailable(f"{login.url} does not answer within {CONNECT_TIMEOUT_S:g} s")
        if not self.client.is_connected:
            raise LogUnavailable(f"{login.url} closed the connection during the login")

    async def _open(self, login: Login) -> None:
        await self.client.connect(
            [login.url],
            error_cb=self._on_error,
            closed_cb=self._on_closed,
            name=login.name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            ping_interval=_NEVER_S,
            user=login.user,
            password=login.password,
            token=login.token,
            tls=login.tls,
            signature_cb=login.sign,
            user_jwt_cb=login.jwt,
            tls_hostname=login.tls_name,
            inbox_prefix=login.inbox_prefix,
        )
        self._reply_prefix = self.client.new_inbox()
        await self.client.hand(f"{self._reply_prefix}.*", self._on_reply)

    def _connect_error(self, error: Exception) -> LogError:
        text = self.problem if isinstance(error, nats.errors.NoServersError) else _text(error)
        if isinstance(error, ssl.SSLError):
            return RightMissing(
                f"a TLS connection to {self.url} ({text})", "check the CA and certificate files"
            )
        if isinstance(error, nats.errors.SecureConnWantedError):
            return RightMissing(
                f"a TLS connection to {self.url}", "the server offers none; check its tls block"
            )
        if "authorization" in text.lower() or "authentication" in text.lower():
            return RightMissing(
                f"a login that {self.url} accepts ({text})", "check the user, password, token or file"
            )
        return LogUnavailable(f"{self.url} cannot be reached: {text}")

    async def watch(self) -> None:
        """Returns when the connection is lost; asks the server for a sign of life every 2 s.

        Whatever arrives is one: the answer itself comes behind all that the server had sent before.
        """
        pinger = asyncio.create_task(self._ping_until_silent(), name="nats-ping")
        try:
            await self.lost.wait()
        finally:
            await end(pinger)

    async def _ping_until_silent(self) -> None:
        try:
            while True:
                await asyncio.sleep(_PING_INTERVAL_S)
                await self._hear()
        except (OSError, nats.errors.Error) as error:
            self._lose(f"no sign of life ({_text(error)})")

    async def _hear(self) -> None:
        """Asks the server to answer, and waits for that as long as anything comes from it.

        Raises:
            TimeoutError: if nothing does.
        """
        # Its own deadline would leave an answer that nobody awaits, and at that nats-py stops reading.
        answer = asyncio.create_task(self.client.rtt(timeout=_NEVER_S), name="nats-rtt")
        try:
            heard = -1
            while not answer.done():
                if heard == (heard := self.client.stats["in_msgs"]):
                    raise nats.errors.TimeoutError
                # A server that is given longer for what it was asked may do nothing else meanwhile.
                patience_s = max((one.timeout_s for one in self._waiting.values()), default=0)
                await asyncio.wait((answer,), timeout=max(patience_s, _PING_TIMEOUT_S))
            answer.result()
        finally:
            await end(answer)

    def note_service(self, *, served: bool) -> None:
        """Takes notice of whether a stream confirmed a message, and ends a session where long none did.

        The server may be cut off from the rest of its cluster, and another may not be. One that led
        a stream goes on describing it for minutes, so only what it confirms counts.
        """
        now_s = asyncio.get_running_loop().time()
        if served:
            self._unserved_since_s = None
        elif self._unserved_since_s is None:
            self._unserved_since_s = now_s
        elif now_s - self._unserved_since_s >= _UNSERVED_MAX_S:
            self._lose(f"no stream confirmed anything there for {_UNSERVED_MAX_S:g} s")

    async def close(self) -> None:
        """Ends the session and whatever waits on it."""
        self._lose("closed")
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.client.close()
        except (TimeoutError, OSError, nats.errors.Error):
            return  # a dead peer: the system drops the socket when it gives up sending

    def check(self) -> None:
        """Returns if the session is up.

        Raises:
            LogUnavailable: if it is lost.
        """
        if self.lost.is_set():
            raise LogUnavailable(f"the connection to {self.url} is lost: {self.problem}")

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Sends a message; nobody confirms it.

        Raises:
            LogUnavailable: if the session is lost.
        """
        self.check()
        try:
            await self.client.publish(self._addressed(subject), payload, reply)
        except nats.errors.MaxPayloadError:
            raise LogError(f"{len(payload)} bytes on {subject} are more than the server takes") from None
        except (OSError, nats.errors.Error) as error:
            raise LogUnavailable(f"cannot send on {subject}: {_text(error)}") from None

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Msg:
        """Sends a message and returns the answer, which may be a status such as 503 (no responders).

        Raises:
            LogUnavailable: if no answer comes in time, or the session is lost.
            RightMissing: if this user may not publish there, or not receive answers.
        """
        self.check()
        if self._deaf is not None:
            raise self._deaf
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = _Waiting(subject, future, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                reply = f"{self._reply_prefix}.{token}"
                await self.client.publish(self._addressed(subject), payload, reply, headers)
                return await future
        except TimeoutError:
            raise LogUnavailable(f"no answer to {subject} within {timeout_s:g} s") from None
        except nats.errors.MaxPayloadError:
            raise LogError(f"{len(payload)} bytes on {subject} are more than the server takes") from None
        except (OSError, nats.errors.Error) as error:
            raise LogUnavailable(f"cannot send on {subject}: {_text(error)}") from None
        finally:
            self._waiting.pop(token, None)

    def _addressed(self, subject: str) -> str:
        """Returns where a message goes: a request to JetStream goes to its API under our name for it."""
        if subject.startswith(JETSTREAM_API):
            return self._login.api_prefix + subject.removeprefix(JETSTREAM_API)
        return subject

    async def subscribe(self, subject: str = "", queue: str = "") -> Inbox:
        """Returns an inbox of what arrives on a subject; without one, on a new unique subject.

        Raises:
            LogUnavailable: if the session is lost.
        """
        self.check()
        inbox = Inbox(self)
        try:
            await inbox.open(subject or self.client.new_inbox(), queue)
        except (OSError, nats.errors.Error) as error:
            raise LogUnavailable(f"cannot subscribe: {_text(error)}") from None
        self._inboxes.add(inbox)
        return inbox

    def forget(self, inbox: Inbox) -> None:
        """Drops an inbox that was left."""
        self._inboxes.discard(inbox)

    def _on_reply(self, message: Msg) -> None:
        entry = self._waiting.get(message.subject.rpartition(".")[2])
        if entry is not None and not entry.answer.done():
            entry.answer.set_result(message)

    async def _on_closed(self) -> None:
        self._lose(self.problem or "the server closed it")

    async def _on_error(self, error: Exception) -> None:
        self.problem = _text(error)
        found = _DENIED.search(str(error))
        if found is None:
            return
        # The parser of nats-py has made the text lower-case, so the true subject is looked up.
        verb, subject = found.groups()
        if verb == "publish":
            self._on_publish_denied(subject)
        elif subject == f"{self._reply_prefix}.*".lower():
            self._deaf = _denied(f"subscribe to {self._login.inbox_prefix}.>")
            self._refuse_all(self._deaf)
        else:
            for inbox in self._inboxes:
                if inbox.subject.lower() == subject:
                    inbox.wake(_denied(f"subscribe to {self._family(inbox.subject)}"))

    def _on_publish_denied(self, subject: str) -> None:
        """Ends what waits for an answer to a message that the server refused; `subject` is lower-case."""
        prefix = self._login.api_prefix.lower()
        if subject.startswith(prefix):
            subject = JETSTREAM_API.lower() + subject.removeprefix(prefix)
        for asked, future, _ in list(self._waiting.values()):
            if asked.lower() == subject and not future.done():
                future.set_exception(_denied(f"publish on {asked}"))
        for inbox in self._inboxes:
            if inbox.asked.lower() == subject:
                inbox.wake(_denied(f"publish on {inbox.asked}"))

    def _family(self, subject: str) -> str:
        prefix = f"{self._login.inbox_prefix}."
        return f"{prefix}>" if subject.startswith(prefix) else subject

    def _refuse_all(self, error: RightMissing) -> None:
        for _, future, _ in list(self._waiting.values()):
            if not future.done():
                future.set_exception(error)

    def _lose(self, problem: str) -> None:
        if self.lost.is_set():
            return
        self.problem = problem
        self.lost.set()
        for _, future, _ in list(self._waiting.values()):
            if not future.done():
                future.set_exception(LogUnavailable(f"the connection to {self.url} was lost: {problem}"))
        for inbox in self._inboxes:
            inbox.wake()


def _denied(right: str) -> RightMissing:
    return RightMissing(right, "grant it to this user in the nats-server's configuration")


def _text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", "") or error.strerror or "certificate verify failed"
    if isinstance(error, ssl.SSLError):
        return error.reason or "handshake failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
