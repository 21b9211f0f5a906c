"""nats-py's client, with its weak spots replaced: NKEYs, TLS that is wanted, headers that are hostile.

What arrives is handed to whoever subscribed at once, in the loop that reads it: nats-py's own way, through
a queue and a task for each subscription, takes longer than what is done with most messages.
"""

from __future__ import annotations

from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pmoves_mesh.log.credentials import Login
from pmoves_mesh.log.headers import parse

Taker = Callable[[Msg], None]
"""Takes a message; it neither waits nor raises."""


class NatsClient(Client):
    """One connection."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._public_nkey = login.nkey
        self._tls_wanted = login.tls is not None
        self._takers: dict[int, Taker] = {}

    async def hand(self, subject: str, taker: Taker, queue: str = "") -> Subscription:
        """Subscribes, and hands what arrives to `taker`."""
        self._takers[self._sid + 1] = taker  # something may arrive as soon as the server knows
        return await self.subscribe(subject, queue)

    async def leave(self, subscription: Subscription) -> None:
        """Ends a subscription."""
        self._takers.pop(subscription._id, None)  # noqa: SLF001 - nats-py has no accessor for it
        await subscription.unsubscribe()

    def _connect_command(self) -> bytes:
        # This is the moment before the password would leave; nats-py itself would go on in clear text.
        if self._tls_wanted and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        taker = self._takers.get(sid)
        if taker is None:  # it was left, and the server does not know yet
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        taker(self._build_message(sid, subject, reply, data, parse(headers) if headers else None))
