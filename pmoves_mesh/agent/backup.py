"""Saving the mesh's registry into a signed file, and putting back from it what the mesh lacks.

Nothing is believed because it stands in a file: whoever signed that must be of this mesh, and each
record has to prove itself. What is put back is what the projection takes for news, so that neither
what was removed since comes back, nor what was said since is undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core import backup, projection, records
from pmoves_mesh.core.backup import Backup, Header
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import (
    MalformedEvent,
    RemoteProtocolError,
    SequenceConflict,
    StoreError,
    UntrustedIssuer,
)
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key, write_whole
from pmoves_mesh.pki.identity import Identity, verified_identity
from pmoves_mesh.pki.operator import operator_identity
from pmoves_mesh.ports import Bucket, BucketEntry
from pmoves_mesh.progress import Progress, unheard
from pmoves_mesh.verifier import Verifier, message_of
from pmoves_mesh.views.examination import examine
from pmoves_mesh.views.rebuild import expected, parts_of

_CONNECT_S: Final = 5.0
_ATTEMPTS_MAX: Final = 5


class Saved(Struct, frozen=True, kw_only=True):
    """What went into a file.

    Attributes:
        records: how many keys of the registry.
        certificates: how many identities.
        position: up to which the file is whole.
        signer: the SPIFFE ID of who signed it.
        left_out: keys of the bucket that proved nothing.
    """

    records: int
    certificates: int
    position: int
    signer: str
    left_out: tuple[str, ...]


class Restored(Struct, frozen=True, kw_only=True):
    """What the mesh lacked of a file, and was given, unless that was only asked for.

    Attributes:
        made: when the file was made.
        signer: the SPIFFE ID of who signed it.
        records: how many keys the file holds.
        keys: those that the mesh lacked.
        certificates: fingerprints of the identities that it lacked.
        published: how many events went into the stream too. One whose signer's certificate has ended
            would not be believed there any more.
    """

    made: str
    signer: str
    records: int
    keys: tuple[str, ...]
    certificates: tuple[str, ...]
    published: int


def save(config: Config, path: Path) -> Saved:
    """Saves the registry, signed in the name of this node, or of its operator.

    Raises:
        LogError: if the log cannot be reached.
        PkiError: if this host has no identity in the mesh, or the file cannot be written.
    """
    return asyncio.run(_save(config, path))


def restore(config: Config, path: Path, *, dry_run: bool, progress: Progress = unheard) -> Restored:
    """Puts back what the mesh lacks of a file.

    Args:
        config: the settings.
        path: the file.
        dry_run: whether only to say what that would be.
        progress: is told how far it is.

    Raises:
        StoreError: if the file cannot be read, was changed, or is of nobody of this mesh; names what.
        LogError: if the log cannot be reached, or this node may not write there.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_restore(config, path, progress, dry_run=dry_run))


@dataclass(frozen=True, slots=True)
class _Mesh:
    log: NatsEventLog
    registry: NatsBucket
    identities: NatsBucket
    verifier: Verifier


@asynccontextmanager
async def _mesh(config: Config) -> AsyncIterator[_Mesh]:
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_S)
        identities = NatsBucket(connection, topology.IDENTITIES)
        verifier = Verifier(trust, identities, SystemClock(), accept_unsigned=config.accept_unsigned)
        registry = NatsBucket(connection, topology.REGISTRY)
        await verifier.learn_roots(registry)
        await verifier.admit_all()
        yield _Mesh(NatsEventLog(connection), registry, identities, verifier)


async def _save(config: Config, path: Path) -> Saved:
    now_ms = SystemClock().now_ms()
    identity = await asyncio.to_thread(_signer, config, now_ms)
    async with _mesh(config) as mesh:
        bounds = await mesh.log.bounds()
        examined = await examine(mesh.registry, mesh.verifier)
        certificates = {
            entry.key: entry.value
            async for entry in mesh.identities.load()
            if mesh.verifier.trust.certificate(entry.key) == entry.value
        }
        roots = mesh.verifier.trust.roots
    header = Header(
        mesh=config.mesh,
        made=iso(now_ms),
        position=bounds.last,
        stream=bounds.stream_id,
        roots=tuple(root.public_bytes(Encoding.PEM).decode() for root in roots),
    )
    data = backup.pack(header, certificates, examined.held, identity, identity.certificate_der)
    await asyncio.to_thread(write_whole, path, data, mode=0o600)
    return Saved(
        records=len(examined.held),
        certificates=len(certificates),
        position=bounds.last,
        signer=identity.id,
        left_out=tuple(one.key for one in examined.spoilt),
    )


def _signer(config: Config, now_ms: int) -> Identity:
    certificate_path, key_path = identity_files(config)
    if not (certificate_path.exists() and key_path.exists()):
        passphrase = config.ca_passphrase.reveal() if config.ca_passphrase else None
        return operator_identity(config.tls_dir, config.mesh, config.node, now_ms, passphrase)
    roots = keystore.read_roots(config.tls_dir)
    certificate, key = read_certificates(certificate_path)[0], read_key(key_path)
    return verified_identity(config.mesh, config.node, roots, certificate, key)


async def _restore(config: Config, path: Path, progress: Progress, *, dry_run: bool) -> Restored:
    try:
        data = await asyncio.to_thread(path.read_bytes)
        held = await _checked(config, data, progress)
    except OSError as error:
        raise StoreError(str(path), error.strerror or str(error)) from None
    except MalformedEvent as error:
        raise StoreError(str(path), str(error)) from None
    async with _mesh(config) as mesh:
        shown = {entry.key async for entry in mesh.identities.load()}
        certificates = {name: der for name, der in held.certificates.items() if name not in shown}
        for der in held.certificates.values():
            mesh.verifier.trust.admit(der)
        lacking = await _lacking(mesh, held, progress)
        published = 0
        if not dry_run:
            for name, der in certificates.items():
                with suppress(SequenceConflict):  # shown by another at the same moment
                    await mesh.identities.put(name, der, expected=0)
            for number, (key, record) in enumerate(lacking.items(), 1):
                progress("putting back what the mesh lacks", number, len(lacking))
                await _put(mesh.registry, key, records.of_before(record))
                published += await _publish(mesh, record)
    return Restored(
        made=held.header.made,
        signer=held.signer.id,
        records=len(held.records),
        keys=tuple(lacking),
        certificates=tuple(certificates),
        published=published,
    )


async def _checked(config: Config, data: bytes, progress: Progress = unheard) -> Backup:
    """Returns what the file holds, once every certificate and record in it has proved itself.

    Raises:
        MalformedEvent: if anything in it does not; names it.
    """
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    held = backup.unpack(data, trust)
    verifier = Verifier(
        trust, _reading(held.certificates), SystemClock(), accept_unsigned=config.accept_unsigned
    )
    await verifier.learn_roots(_reading({key: records.encode(one) for key, one in held.records.items()}))
    for name, der in held.certificates.items():
        try:
            admitted = trust.admit(der).fingerprint
        except UntrustedIssuer as error:
            raise MalformedEvent(f"certificate {name[:64]}", error.problem) from None
        if admitted != name:
            raise MalformedEvent(f"certificate {name[:64]}", f"is that of {admitted}")
    for number, (key, record) in enumerate(held.records.items(), 1):
        progress("checking the file", number, len(held.records))
        if not await verifier.proved(key, record):
            raise MalformedEvent(f"record {key[:200]}", "does not prove itself")
    return held


async def _lacking(mesh: _Mesh, held: Backup, progress: Progress) -> dict[str, Record]:
    """Returns the records that tell the mesh something, in the order in which they were stated."""
    examined = await examine(mesh.registry, mesh.verifier)
    _, ledger = await expected(mesh.log, mesh.verifier, examined.held, progress)
    registry = ledger.registry
    ordered = sorted(held.records.items(), key=lambda item: (item[1].position, item[1].stamp))
    return {
        key: record
        for key, record in ordered
        if not records.is_removal(record) and await _is_news(mesh.verifier, registry, record)
    }


async def _is_news(verifier: Verifier, registry: Registry, record: Record) -> bool:
    """Folds a record into what the mesh knows, as one of before its stream; returns whether it knew less."""
    news = False
    for one in reversed(tuple(parts_of(record))):
        with suppress(RemoteProtocolError):
            for verified in await verifier.unseal_record(one):
                change = projection.apply(registry, verified, position=0, time_ms=one.time_ms)
                news = news or change.outcome == "applied"
    return news


async def _put(bucket: NatsBucket, key: str, record: Record) -> None:
    for _ in range(_ATTEMPTS_MAX):
        entry = await bucket.get(key)
        held = records.readable(entry.value) if entry else None
        fresh = records.merged(held, record)
        if fresh is None:
            return
        with suppress(SequenceConflict):
            await bucket.put(key, records.encode(fresh), expected=entry.revision if entry else 0)
            return
    raise SequenceConflict(key, 0)


async def _publish(mesh: _Mesh, record: Record) -> int:
    """Lets the running agents know too; returns how many events that took."""
    count = 0
    for one in reversed(tuple(parts_of(record))):
        (verified, *_) = await mesh.verifier.unseal_record(one)
        signer = mesh.verifier.trust.signer(verified.fingerprint)
        if signer is not None and SystemClock().now_ms() < signer.not_after_ms:
            await mesh.log.publish(message_of(one).sealed)
            count += 1
    return count


def _reading(values: Mapping[str, bytes]) -> Bucket:
    """Returns a part of the file as the bucket that it was, for a verifier, which only looks keys up."""
    return cast("Bucket", _Held(values))


class _Held:
    """A bucket that is a part of a file: what a verifier reads."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._values = values

    async def get(self, key: str) -> BucketEntry | None:
        """Returns a value of the file."""
        value = self._values.get(key)
        return None if value is None else BucketEntry(key=key, value=value, revision=1)
