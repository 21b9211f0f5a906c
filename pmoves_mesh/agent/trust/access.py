"""Who may log in to this host's NATS server: in step with what the CA issued and operators revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.core.event import CertificatesRevoked
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import MeshError
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.subscribers import Applied

_log: Final = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 2.0
_TELL_EVERY_S: Final = 300.0


class Door(Protocol):
    """A NATS server that lets in whom it is told."""

    async def admit(self, access: Access) -> None:
        """Lets these members in, and nobody else of this mesh; the others keep their connections."""
        ...

    async def reload(self) -> None:
        """Makes the server take renewed certificates."""
        ...


class Issued(Protocol):
    """A certificate that the CA gave somebody."""

    @property
    def kind(self) -> str:
        """What it is for."""

    @property
    def name(self) -> str:
        """The last part of its SPIFFE ID."""

    @property
    def key_id(self) -> str:
        """SHA-256 of its public key, in hex."""

    def holds(self, now_ms: int) -> bool:
        """Returns whether it is neither revoked nor past its end."""


class IssuedSource(Protocol):
    """What says which certificates there are: the CA's ledger, or another host's copy of it. All blocks."""

    def version(self) -> object:
        """Returns what tells one state of it from another."""

    def revoke(self, fingerprints: Iterable[str], now_ms: int) -> object:
        """Takes notice that certificates were revoked."""

    def certificates(self) -> Sequence[Issued]:
        """Returns all of them."""


def access_of(
    roots: Sequence[x509.Certificate],
    own: Identity,
    files: tuple[Path, Path],
    certificates: Iterable[Issued],
    now_ms: int,
    owner: str = "",
) -> Access:
    """Returns who may log in: whoever holds the key of a certificate that was not revoked and has not ended.

    Args:
        roots: the mesh's CA certificates.
        own: the node on whose host the server runs.
        files: its certificate and key, which its mesh's clients are shown.
        certificates: all that were issued.
        now_ms: unix milliseconds.
        owner: the node that makes the mesh's stream and buckets; empty for that very one.
    """
    mesh = own.id.removeprefix("spiffe://").partition("/")[0]
    pins: dict[tuple[str, str], set[str]] = {(own.kind, own.name): {own.key_id}}
    for one in certificates:
        if one.holds(now_ms):
            pins.setdefault((one.kind, one.name), set()).add(one.key_id)
    members = [
        Member(identity=spiffe_id(mesh, kind, name), kind=cast("SignerKind", kind), name=name, pins=keys)
        for (kind, name), keys in ((who, tuple(sorted(keys))) for who, keys in sorted(pins.items()))
    ]
    return Access(
        mesh=mesh,
        owner=spiffe_id(mesh, "node", owner) if owner else own.id,
        anchor_pem="".join(root.public_bytes(Encoding.PEM).decode() for root in roots),
        members=tuple(members),
        certificate=str(files[0]),
        key=str(files[1]),
    )


class AccessKeeper:
    """Tells the server whenever somebody may log in, or no longer may."""

    def __init__(
        self,
        door: Door,
        issued: IssuedSource,
        replica: Replica,
        access: Callable[[Iterable[Issued]], Access],
        clock: Clock,
    ) -> None:
        """Takes the server, and what says who may log in to it."""
        self._door = door
        self._source = issued
        self._replica = replica
        self._access = access
        self._clock = clock
        self._changed = asyncio.Event()
        self._telling = asyncio.Lock()

    async def run(self) -> None:
        """Keeps the server told for ever: at once after a revocation, soon after a command issued."""
        with self._replica.subscribed(self._notice):
            while True:
                version = await asyncio.to_thread(self._source.version)
                try:
                    await self.tell()
                except MeshError as error:
                    _log.error("the NATS server is not told who may log in", detail=str(error))
                await self._wait(version)

    async def tell(self) -> None:
        """Tells the server now; returns when it heeds it.

        Raises:
            MeshError: if the server cannot be told.
        """
        async with self._telling:
            await self._door.admit(self._access(await asyncio.to_thread(self._issued)))

    async def renewed(self) -> None:
        """Lets the server take a renewed certificate.

        Raises:
            MeshError: if the server cannot be told.
        """
        async with self._telling:
            await self._door.reload()

    def _issued(self) -> Sequence[Issued]:
        """Returns what there is, once the source has heard of every revocation."""
        revoked = tuple(self._replica.registry.revoked)
        if revoked:
            self._source.revoke(revoked, self._clock.now_ms())
        return self._source.certificates()

    def _notice(self, applied: Applied) -> None:
        if isinstance(applied.verified.event, CertificatesRevoked):
            self._changed.set()

    async def _wait(self, version: object) -> None:
        """Waits for a revocation, a change of the source, or the time at which something may have ended."""
        until_s = self._clock.monotonic_s() + _TELL_EVERY_S
        while self._clock.monotonic_s() < until_s:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                if await asyncio.to_thread(self._source.version) == version:
                    continue
            break
        self._changed.clear()
