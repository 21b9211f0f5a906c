"""What follows when the CA issues a certificate: the mesh sees it, the NATS server lets its holder in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.agent.trust.refusals import Note
from pmoves_mesh.core.event import EnrolmentRefused, IdentityIssued
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, MeshError, PkiError, SequenceConflict, StoreError, UntrustedIssuer
from pmoves_mesh.ports import Bucket, Clock
from pmoves_mesh.store.ledger import IssuedCertificate, Ledger

_log: Final = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 2.0


class Admission:
    """Makes what the CA issued known to whoever has to know it."""

    def __init__(
        self,
        ledger: Ledger,
        trust: Trust,
        identities: Bucket,
        tell_server: Callable[[], Awaitable[None]] | None,
        clock: Clock,
    ) -> None:
        """Takes whom to tell.

        Args:
            ledger: what was issued.
            trust: whom this node believes.
            identities: where the mesh looks certificates up.
            tell_server: lets the holders in; None where no NATS server of ours asks for certificates.
            clock: the time.
        """
        self._ledger = ledger
        self._trust = trust
        self._identities = identities
        self._tell_server = tell_server
        self._clock = clock
        self._shown: set[str] = set()

    async def issued(self, certificate: IssuedCertificate) -> None:
        """Makes a new certificate known; an outage only delays that."""
        try:
            await self._show(certificate)
            if self._tell_server is not None:
                await self._tell_server()
        except MeshError as error:
            _log.warning("a new certificate is not known everywhere yet", detail=str(error))

    async def run(self) -> None:
        """Shows the mesh, for ever, what the ledger holds and the mesh does not: commands issue too."""
        version: object = None
        while True:
            try:
                found = await asyncio.to_thread(self._ledger.version)
                if found != version:
                    await self._show_all()
                    version = found
            except (LogError, StoreError, PkiError) as error:
                _log.debug("issued certificates are shown later", detail=str(error))
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _show_all(self) -> None:
        now_ms = self._clock.now_ms()
        for certificate in await asyncio.to_thread(self._ledger.certificates):
            if certificate.holds(now_ms):
                await self._show(certificate)

    async def _show(self, certificate: IssuedCertificate) -> None:
        name = certificate.fingerprint
        if name in self._shown:
            return
        try:
            self._trust.admit(certificate.der)
        except UntrustedIssuer as error:
            _log.debug("an issued certificate is not believed yet", detail=str(error))
            return  # its CA is not the mesh's yet, or no longer
        if await self._identities.get(name) is None:
            try:
                await self._identities.put(name, certificate.der, expected=0)
            except SequenceConflict:
                _log.debug("certificate already shown", fingerprint=name)
        self._shown.add(name)


def notes(author: Author) -> Note:
    """Returns what states, as this node's own words, what happened at the CA."""

    async def note(event: type[IdentityIssued | EnrolmentRefused], **fields: str | int) -> None:
        def build(place: Place) -> tuple[IdentityIssued | EnrolmentRefused, ...]:
            return (msgspec.convert({**place, **fields}, event),)

        await author.state(build)

    return note
