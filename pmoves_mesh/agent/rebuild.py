"""Rebuilding and checking the registry bucket, as commands of their own beside a running agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec import Struct

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.comparison import Difference, Mark, compare, marks_in, shown_of
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki import keystore
from pmoves_mesh.progress import Progress, unheard
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.examination import examine
from pmoves_mesh.views.rebuild import Rebuilt, expected, rebuild

_CONNECT_S = 5.0
_AGAIN_S = 1.0
_TRIES = 3


class Checked(Struct, frozen=True, kw_only=True):
    """What a comparison of stream, bucket and replica found.

    Attributes:
        keys: how many keys the bucket should hold.
        position: up to which the stream was read.
        replica: whether there was an agent to ask.
        differences: where bucket or replica say otherwise than the stream.
    """

    keys: int
    position: int
    replica: bool
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class _Mesh:
    """What of the mesh is read and written."""

    log: NatsEventLog
    bucket: NatsBucket
    verifier: Verifier
    clock: SystemClock


def run(config: Config, progress: Progress = unheard) -> Rebuilt:
    """Rebuilds the registry bucket from the stream; returns what that changed.

    Raises:
        LogError: if the log cannot be reached or read.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_rebuild(config, progress))


def check(
    config: Config, shown: Callable[[], Mapping[str, Mark] | None], progress: Progress = unheard
) -> Checked:
    """Compares what the stream gives with the bucket, and with what a replica shows.

    What is under way differs for a moment, so what differs is looked at again.

    Args:
        config: the settings.
        shown: returns the marks that this host's agent shows; None if there is no agent. It may block.
        progress: is told how far it is.

    Raises:
        LogError: if the log cannot be reached or read.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_check(config, shown, progress))


def replayed(config: Config) -> Registry:
    """Returns the registry as stream and bucket give it, verified, where no replica can be asked.

    Raises:
        LogError: if the log cannot be reached or read.
        PkiError: if the mesh's CA is not known here.
    """
    return asyncio.run(_replayed(config))


async def _replayed(config: Config) -> Registry:
    async with _mesh(config) as mesh:
        await mesh.verifier.learn_roots(mesh.bucket)
        await mesh.verifier.admit_all()
        examined = await examine(mesh.bucket, mesh.verifier)
        _, ledger = await expected(mesh.log, mesh.verifier, examined.held)
        return ledger.registry


async def _check(
    config: Config, shown: Callable[[], Mapping[str, Mark] | None], progress: Progress
) -> Checked:
    async with _mesh(config) as mesh:
        checked = await _compared(mesh, shown, progress)
        for _ in range(_TRIES):
            if not checked.differences:
                break
            await mesh.clock.sleep(_AGAIN_S)
            before = set(checked.differences)
            checked = await _compared(mesh, shown, progress)
            if before == set(checked.differences):
                break
        return checked


async def _compared(
    mesh: _Mesh, shown: Callable[[], Mapping[str, Mark] | None], progress: Progress
) -> Checked:
    await mesh.verifier.learn_roots(mesh.bucket)
    await mesh.verifier.admit_all()
    examined = await examine(mesh.bucket, mesh.verifier)
    wanted, ledger = await expected(mesh.log, mesh.verifier, examined.held, progress)
    marks = await asyncio.to_thread(shown)
    spoilt = {one.key for one in examined.spoilt}
    differences = [*examined.spoilt]
    found = compare("bucket", marks_in(wanted), marks_in(examined.held))
    differences += [one for one in found if one.key not in spoilt]
    if marks is not None:
        differences += compare("replica", shown_of(ledger.registry), marks)
    return Checked(
        keys=len(marks_in(wanted)),
        position=ledger.registry.position,
        replica=marks is not None,
        differences=tuple(differences),
    )


async def _rebuild(config: Config, progress: Progress) -> Rebuilt:
    async with _mesh(config) as mesh:
        return await rebuild(mesh.log, mesh.bucket, mesh.verifier, mesh.clock, progress)


@asynccontextmanager
async def _mesh(config: Config) -> AsyncIterator[_Mesh]:
    clock = SystemClock()
    trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_S)
        identities = NatsBucket(connection, topology.IDENTITIES)
        verifier = Verifier(trust, identities, clock, accept_unsigned=config.accept_unsigned)
        bucket = NatsBucket(connection, topology.REGISTRY)
        yield _Mesh(NatsEventLog(connection), bucket, verifier, clock)
