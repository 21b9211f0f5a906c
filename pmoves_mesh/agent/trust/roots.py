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
from pmoves_mesh.replica import Replica
from pmoves_mesh.subscribers import Applied

_log: Final = structlog.get_logger(__name__)


class RootsKeeper:
    """Writes `ca.crt` after every rotation, and tells whoever stands on it."""

    def __init__(
        self, config: Config, replica: Replica, rotated: Sequence[Callable[[], Awaitable[None]]]
    ) -> None:
        """Takes where the file is, and who is told after each rotation, one after the other."""
        self._config = config
        self._replica = replica
        self._rotated = tuple(rotated)
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follows the mesh's rotations for ever; what cannot be written is said."""
        with self._replica.subscribed(self._notice):
            self._wake.set()  # there may have been one while this agent was away
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._replica.registry.roots.certificates:
                    await self._follow()

    def _notice(self, applied: Applied) -> None:
        if isinstance(applied.verified.event, RootsRotated):
            self._wake.set()

    async def _follow(self) -> None:
        roots = self._replica.verifier.trust.roots
        try:
            changed = await asyncio.to_thread(keystore.write_roots, self._config.tls_dir, roots)
            if changed:
                _log.warning("the mesh's CA certificates changed", roots=len(roots))
            for tell in self._rotated:
                await tell()
        except MeshError as error:
            _log.error("the mesh's rotated CA is not taken up everywhere", detail=str(error))
