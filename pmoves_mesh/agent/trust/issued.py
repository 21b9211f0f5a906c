"""Whose certificates hold: told by the host of the CA to the other hosts of a cluster.

Their nats-servers have to let in the same identities as the CA's host does, and the ledger is there
alone. Who is believed about it are the nodes that the setting names, and no other: whoever says who
may log in could let anybody in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from pmoves_mesh.agent.trust.ca_client import Holder as Files
from pmoves_mesh.agent.trust.ca_client import exchange, problem_of, trusting
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import MeshError, PkiError, StoreError
from pmoves_mesh.pki.keystore import read_roots
from pmoves_mesh.ports import Clock
from pmoves_mesh.store.issued import Holder, IssuedCopy, IssuedList
from pmoves_mesh.store.ledger import Ledger

_LOOK_EVERY_S: Final = 2.0
_BYTES_MAX: Final = 8 * 2**20
_LISTED_FOR_MS: Final = 60_000

_log: Final = structlog.get_logger(__name__)


class IssuedLister:
    """What the host of the CA tells, made anew when the ledger changed or a certificate may have ended."""

    def __init__(self, node: str, ledger: Ledger, clock: Clock) -> None:
        """Takes this node, the ledger, and the time."""
        self._node = node
        self._ledger = ledger
        self._clock = clock
        self._made_of: tuple[object, int] = (None, 0)
        self._list = IssuedList(owner=node, holders=())

    async def __call__(self) -> IssuedList:
        """Returns whose certificates hold.

        Raises:
            StoreError: if the ledger cannot be read.
        """
        now_ms = self._clock.now_ms()
        of = (await asyncio.to_thread(self._ledger.version), now_ms // _LISTED_FOR_MS)
        if of != self._made_of:
            self._list = await asyncio.to_thread(self._read, now_ms)
            self._made_of = of
        return self._list

    def _read(self, now_ms: int) -> IssuedList:
        rows = [
            {
                "kind": one.kind,
                "name": one.name,
                "key_id": one.key_id,
                "fingerprint": one.fingerprint,
                "not_after_ms": one.not_after_ms,
            }
            for one in self._ledger.certificates()
            if one.holds(now_ms)
        ]
        return IssuedList(owner=self._node, holders=msgspec.convert(rows, tuple[Holder, ...]))


class IssuedFollower:
    """Keeps this host's copy as the CA's host has it."""

    def __init__(
        self, config: Config, copy: IssuedCopy, urls: Callable[[], Sequence[str]], clock: Clock
    ) -> None:
        """Takes what it needs.

        Args:
            config: the settings.
            copy: what it keeps up to date.
            urls: returns where the CA may answer, `https://host:port` each.
            clock: the time.
        """
        self._config = config
        self._copy = copy
        self.urls = urls
        self._clock = clock
        self._etag = ""
        self._said = ""

    async def first(self) -> None:
        """Returns once there is a list: what was kept from an earlier run, or what the CA's host tells."""
        if await asyncio.to_thread(self._copy.load):
            return
        await self._look()
        while not self._copy.owner:
            await self._clock.sleep(_LOOK_EVERY_S)
            await self._look()

    async def run(self) -> None:
        """Looks for ever; while the CA's host is away, what it told last holds."""
        while True:
            await self._look()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        try:
            told, etag = await self._ask()
            if told is not None:
                await asyncio.to_thread(self._copy.take, told)
            self._etag = etag  # not before it was kept, or it would not be told again
            self._said = ""
        except (MeshError, StoreError) as error:
            if str(error) != self._said:
                _log.warning("who may log in to NATS is not told by the CA's host", detail=str(error))
            self._said = str(error)

    async def _ask(self) -> tuple[IssuedList | None, str]:
        """Returns what the first says that keeps the CA, None if it is what it said before, and its ETag."""
        config = self._config
        roots = await asyncio.to_thread(read_roots, config.tls_dir)
        allow = [spiffe_id(config.mesh, "node", one.name) for one in config.nats_cluster]
        problems = []
        async with trusting(roots, allow, Files(*identity_files(config))) as session:
            for url in self.urls():
                try:
                    path = f"{url}/api/trust/issued"
                    answer = await exchange(session, "GET", path, known=self._etag, bytes_max=_BYTES_MAX)
                    if answer.status == 304:
                        return None, self._etag
                    if answer.status != 200:
                        raise problem_of(url, answer)
                    told = msgspec.json.decode(answer.raw, type=IssuedList)
                except msgspec.MsgspecError as error:
                    problems.append(f"{url} does not answer as an agent that keeps the CA ({error})")
                except MeshError as error:
                    problems.append(str(error))
                else:
                    return told, answer.etag
        raise PkiError("; ".join(problems) or "no address of the CA is known: set PMOVES_CA_URL")
