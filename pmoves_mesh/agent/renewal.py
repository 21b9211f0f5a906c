"""Renewal: a new certificate for this node long before the old one ends, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from pmoves_mesh.errors import LogError, PkiError
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 600.0


class Renewal:
    """Looks after this node's identity while the agent runs."""

    def __init__(
        self,
        identity: Identity,
        renew: Callable[[], Identity],
        adopt: Callable[[Identity], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """Takes what to look after.

        Args:
            identity: the one in use.
            renew: returns a new one if it is time, else the same; may block.
            adopt: lets the mesh see the new one, and this node sign with it.
            clock: the time.
        """
        self._identity = identity
        self._renew = renew
        self._adopt = adopt
        self._clock = clock

    async def run(self) -> None:
        """Renews for ever, at two thirds of each certificate's time; what fails is tried again."""
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            if self._clock.now_ms() < self._identity.renew_after_ms:
                continue
            try:
                fresh = await asyncio.to_thread(self._renew)
                if fresh.fingerprint != self._identity.fingerprint:
                    await self._adopt(fresh)
                    self._identity = fresh
                    _log.info("identity renewed", id=fresh.id, not_after_ms=fresh.not_after_ms)
            except (PkiError, LogError) as error:
                _log.warning("identity not renewed", id=self._identity.id, detail=str(error))
