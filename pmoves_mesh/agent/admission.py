"""What follows when this host's CA issues a certificate: the mesh sees it, the NATS server lets its holder in."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.config import Config
from pmoves_mesh.core.event import EnrolmentRefused, IdentityIssued
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import CapacityError, LogError, MeshError, SequenceConflict, StoreError
from pmoves_mesh.ports import Bucket, Clock
from pmoves_mesh.store.ledger import IssuedCertificate, Ledger

_log: Final = structlog.get_logger(__name__)

_SHOW_EVERY_S: Final = 30.0


class Issuing:
    """Makes what the CA issued known; implements the hooks of the enroller.

    Attributes:
        tell_server: told after each certificate, before its holder has it; None if there is no server to tell.
    """

    def __init__(
        self,
        config: Config,
        host: str,
        ledger: Ledger,
        trust: Trust,
        identities: Bucket,
        clock: Clock,
    ) -> None:
        self.tell_server: Any = None
        self._config = config
        self._host = host
        self._ledger = ledger
        self._trust = trust
        self._identities = identities
        self._clock = clock
        self._shown: set[str] = set()

    async def issued(self, certificate: IssuedCertificate) -> None:
        """Lets the mesh see a new certificate, and the server its holder; an outage only delays that."""
        try:
            await self._show(certificate)
            if self.tell_server is not None:
                await self.tell_server()
        except MeshError as error:
            _log.warning("a new certificate is not known everywhere yet", detail=str(error))

    def settings(self, node: str) -> dict[str, str]:
        """Returns what a new node of the mesh writes into its `env.shared`."""
        config = self._config
        place = f"[{self._host}]" if ":" in self._host else self._host
        servers = config.nats_external or config.nats_servers
        if config.embedded and not config.nats_external:
            scheme = config.nats_servers[0].partition("://")[0]
            servers = (f"{scheme}://{place}:{config.nats_port}",)
        return {
            "PMOVES_MESH_NAME": config.mesh,
            "MESH_HOSTNAME": node,
            "NATS_URL": ",".join(servers),
        }

    async def run(self) -> None:
        """Shows the mesh, for ever, what the ledger holds and the mesh does not: the command line issues too."""
        while True:
            try:
                for certificate in await asyncio.to_thread(self._ledger.certificates):
                    if certificate.revoked_ms is None and certificate.not_after_ms > self._clock.now_ms():
                        await self._show(certificate)
            except (LogError, StoreError) as error:
                _log.debug("issued certificates are shown later", detail=str(error))
            await self._clock.sleep(_SHOW_EVERY_S)

    async def _show(self, certificate: IssuedCertificate) -> None:
        name = certificate.fingerprint
        if name in self._shown:
            return
        self._trust.admit(certificate.der)
        if await self._identities.get(name) is None:
            try:
                await self._identities.put(name, certificate.der, expected=0)
            except SequenceConflict:
                _log.debug("certificate already shown", fingerprint=name)
        self._shown.add(name)


class Notes:
    """States what happened at the CA as this node's own words, so that the stream remembers it."""

    def __init__(self, author: Author) -> None:
        self._author = author

    async def issued(self, **fields: Any) -> None:
        """States that a certificate was issued; fields as in `IdentityIssued`."""
        await self._state(IdentityIssued, fields)

    async def refused(self, **fields: Any) -> None:
        """States that a certificate was refused; fields as in `EnrolmentRefused`."""
        await self._state(EnrolmentRefused, fields)

    async def _state(self, kind: type[IdentityIssued | EnrolmentRefused], fields: dict[str, Any]) -> None:
        def build(place: Place) -> tuple[IdentityIssued | EnrolmentRefused, ...]:
            return (kind(**place, **fields),)

        try:
            await self._author.state(build)
        except (StoreError, CapacityError) as error:
            _log.warning("not noted in the stream", kind=kind.__name__, detail=str(error))
