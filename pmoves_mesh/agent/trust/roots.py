"""The roots on this host's disk, as the latest rotation says: TLS believes whom events believe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pmoves_mesh.config import Config
from pmoves_mesh.core.event import RootsRotated
from pmoves_mesh.errors import MeshError
from pmoves_mesh.pki import keystore
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.subscribers import Applied

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 1.0


class RootsKeeper:
    """Writes `ca.crt` after every rotation, and tells whoever stands on it."""

    def __init__(
        self,
        config: Config,
        replica: Replica,
        rotated: Sequence[Callable[[], Awaitable[None]]],
        clock: Clock,
    ) -> None:
        """Takes where the file is, who is told after each rotation, and the time."""
        self._config = config
        self._replica = replica
        self._rotated = tuple(rotated)
        self._clock = clock
        self._wake = asyncio.Event()
        self._problems: list[str] = []

    async def run(self) -> None:
        """Follows the mesh's rotations for ever; what does not succeed is said, and tried again."""
        with self._replica.subscribed(self._notice):
            self._wake.set()  # there may have been one while this agent was away
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._replica.registry.roots.certificates:
                    while not await self._follow():
                        await self._clock.sleep(_RETRY_S)

    def _notice(self, applied: Applied) -> None:
        if isinstance(applied.verified.event, RootsRotated):
            self._wake.set()

    async def _follow(self) -> bool:
        """Writes the roots, then tells everybody, whoever else fails; returns whether all succeeded."""
        problems = []
        try:
            await self._write()
        except MeshError as error:
            problems.append(str(error))  # whoever stands on the file would find the one before
        for tell in () if problems else self._rotated:
            try:
                await tell()
            except MeshError as error:
                problems.append(str(error))
        if problems and problems != self._problems:
            _log.error("the mesh's rotated CA is not taken up everywhere", detail="; ".join(problems))
        self._problems = problems
        return not problems

    async def _write(self) -> None:
        roots = self._replica.verifier.trust.roots
        if await asyncio.to_thread(keystore.write_roots, self._config.tls_dir, roots):
            _log.warning("the mesh's CA certificates changed", roots=len(roots))
