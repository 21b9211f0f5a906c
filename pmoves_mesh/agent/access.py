"""Who may connect to the NATS server of this host: kept in step with what the CA issued and operators revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import structlog
from cryptography import x509

from pmoves_mesh.config import Config
from pmoves_mesh.core.event import CertificatesRevoked
from pmoves_mesh.errors import MeshError
from pmoves_mesh.pki.anchors import constrained_anchor
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Applied, Replica
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.store.ledger import IssuedCertificate, Ledger

_log: Final = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 60.0


class Door(Protocol):
    """A NATS server that lets in whom it is told."""

    async def admit(self, access: Access) -> None:
        """Lets these members in, and nobody else of this mesh; the others keep their connections."""
        ...


def access_of(
    mesh: str,
    roots: Sequence[x509.Certificate],
    owner: Identity,
    certificates: Iterable[IssuedCertificate],
    now_ms: int,
) -> Access:
    """Returns who may connect: whoever holds the key of a certificate that was not revoked and has not ended.

    Args:
        mesh: the trust domain.
        roots: its CA certificates.
        owner: the node that runs the server.
        certificates: all that were issued.
        now_ms: unix milliseconds.
    """
    pins: dict[tuple[str, str], dict[str, None]] = {("node", owner.name): {owner.key_id: None}}
    for one in certificates:
        if one.revoked_ms is None and one.not_after_ms > now_ms:
            pins.setdefault((one.kind, one.name), {})[one.key_id] = None
    return Access(
        mesh=mesh,
        owner=owner.id,
        anchor_pem="".join(constrained_anchor(root, mesh) for root in roots),
        members=tuple(
            Member(identity=f"spiffe://{mesh}/{kind}/{name}", kind=kind, name=name, pins=tuple(sorted(keys)))
            for (kind, name), keys in sorted(pins.items())
        ),
    )


class AccessKeeper:
    """Tells the server whenever somebody may come in, or no longer may."""

    def __init__(
        self, config: Config, door: Door, ledger: Ledger | None, replica: Replica, clock: Clock
    ) -> None:
        self._config = config
        self._door = door
        self._ledger = ledger
        self._replica = replica
        self._clock = clock
        self._changed = asyncio.Event()
        self._telling = asyncio.Lock()

    async def run(self, owner: Identity) -> None:
        """Keeps the server told for ever: at once after a revocation, and now and then for what ended."""
        with self._replica.subscribed(self._notice):
            while True:
                try:
                    await self.tell(owner)
                except MeshError as error:
                    _log.error("the NATS server is not told who may connect", detail=str(error))
                await self._wait()

    async def tell(self, owner: Identity) -> None:
        """Tells the server now; returns when it heeds it.

        Raises:
            MeshError: if the server cannot be told.
        """
        async with self._telling:
            certificates = await asyncio.to_thread(self._issued)
            access = access_of(
                self._config.mesh,
                self._replica.verifier.trust.roots,
                owner,
                certificates,
                self._clock.now_ms(),
            )
            await self._door.admit(access)

    def _issued(self) -> list[IssuedCertificate]:
        """Returns what the ledger holds, once it has heard of every revocation."""
        if self._ledger is None:
            return []
        revoked = self._replica.registry.revoked
        if revoked:
            self._ledger.revoke(tuple(revoked), self._clock.now_ms())
        return self._ledger.certificates()

    def _notice(self, applied: Applied) -> None:
        if isinstance(applied.verified.event, CertificatesRevoked):
            self._changed.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self._changed.clear()
