"""Renewal: new certificates for what this host holds, long before the old ones end, without a restart.

The key stays; the new certificate takes the old one's place on disk, where every TLS context finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, MeshError, PkiError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key, write_certificate
from pmoves_mesh.pki.identity import Identity, identity_of, renewal_request
from pmoves_mesh.ports import Clock, Enroller, Renewal

_log: Final = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 600.0
_LOOK_SOON_S: Final = 1.0
_RETRY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate on this host's disk, and its key."""

    certificate: Path
    key: Path


class Renewals:
    """Looks after every certificate of this host while the agent runs."""

    def __init__(
        self,
        trust: Trust,
        enroller: Enroller,
        held: Callable[[], Iterator[Held]],
        renewed: Callable[[Held, Identity], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """Takes what to look after.

        Args:
            trust: whom the mesh believes; a certificate of a CA that is being replaced is due at once.
            enroller: gives new certificates.
            held: yields what there is now.
            renewed: told of each new certificate, when it is on disk.
            clock: the time.
        """
        self._trust = trust
        self._enroller = enroller
        self._held = held
        self._renewed = renewed
        self._clock = clock
        self._soon = asyncio.Event()

    def look(self) -> None:
        """Makes it look at once, as after a rotation of the CA."""
        self._soon.set()

    async def run(self) -> None:
        """Renews for ever, at two thirds of each certificate's time; what fails is tried again."""
        while True:
            await self._pause(await self._look())

    async def _look(self) -> float:
        """Renews what is due, and returns the seconds until it is worth looking again."""
        pause_s = _LOOK_EVERY_S
        for held in await asyncio.to_thread(lambda: list(self._held())):
            try:
                identity = await asyncio.to_thread(self._read, held)
                if self._is_due(identity):
                    identity = await self._renew(held, identity)
                due_s = (identity.renew_after_ms - self._clock.now_ms()) / 1000
                pause_s = min(pause_s, max(due_s, _LOOK_SOON_S))
            except (PkiError, LogError) as error:
                _log.warning("certificate not renewed", path=str(held.certificate), detail=str(error))
                pause_s = min(pause_s, _RETRY_S)
        return pause_s

    def _read(self, held: Held) -> Identity:
        certificate = read_certificates(held.certificate)[0]
        return identity_of(self._trust, certificate, read_key(held.key))

    def _is_due(self, identity: Identity) -> bool:
        if self._clock.now_ms() >= identity.renew_after_ms:
            return True
        return identity.root != self._trust.root_fingerprints[0]

    async def _renew(self, held: Held, identity: Identity) -> Identity:
        wanted = Renewal(
            certificate=identity.certificate.public_bytes(Encoding.PEM).decode(),
            csr=await asyncio.to_thread(renewal_request, self._trust.mesh, identity),
            remote="",
        )
        issued = await self._enroller.renew(wanted)
        certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
        fresh = identity_of(self._trust, certificate, identity.key)
        await asyncio.to_thread(write_certificate, held.certificate, certificate)
        _log.info("certificate renewed", id=fresh.id, not_after_ms=fresh.not_after_ms)
        try:
            await self._renewed(held, fresh)
        except MeshError as error:
            _log.warning("a renewed certificate is not taken up everywhere", id=fresh.id, detail=str(error))
        return fresh

    async def _pause(self, seconds: float) -> None:
        waiting = asyncio.create_task(self._soon.wait())
        sleeping = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()
            self._soon.clear()


def held_here(identity_dir: Path, tls_dir: Path, *, keeps_ca: bool) -> Iterator[Held]:
    """Yields this host's certificates: its services', beside the CA those of `tls/`, the node's own last.

    So a node that speaks with a new certificate says that all of its host are new.
    """
    stems = sorted(path.with_suffix("") for path in (tls_dir / keystore.SERVICES_DIR).glob("*.crt"))
    if keeps_ca:
        stems += [tls_dir / name for name in ("server", "client", "operator")]
    stems.append(identity_dir / "node")
    for stem in stems:
        held = Held(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        if held.certificate.exists() and held.key.exists():
            yield held
