"""Renewal: what a host holds is replaced in time, with the same key, and nobody has to think of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.renewal import Held, Renewals, held_here
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogUnavailable, PkiError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.pki.rotation import begin_rotation
from pmoves_mesh.ports import Enrolment, IssuedIdentity, Renewal, ServiceRequest

MESH = "pmoves-mesh"
BEGIN_MS = 1_800_000_000_000
DEADLINE_S = 10.0


class HastyClock(SystemClock):
    """A clock that stands where it is put, and whose waits are over at once."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms
        self.waits: list[float] = []

    def now_ms(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.waits.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Ca:
    """The CA of a folder, at work without a network; it may be out of order."""

    folder: Path
    clock: HastyClock
    failures: list[Exception] = field(default_factory=list)
    asked: int = 0

    async def renew(self, wanted: Renewal) -> IssuedIdentity:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        given = Issuing(self.folder / "tls", MESH, "alpha").renew(wanted, self.clock.now)
        pem = read_pem(given.certificate.der)
        return IssuedIdentity(certificate=pem, roots=())

    async def enrol(self, wanted: Enrolment) -> IssuedIdentity:
        raise AssertionError(wanted)

    async def certify(self, wanted: ServiceRequest) -> IssuedIdentity:
        raise AssertionError(wanted)


def read_pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


@dataclass
class Host:
    """A host with an identity, whose renewals run."""

    folder: Path
    clock: HastyClock
    ca: Ca
    first: Identity
    trust: Trust
    renewals: Renewals
    renewed: list[Identity]

    @property
    def on_disk(self) -> bytes:
        return read_certificates(self.folder / "identity" / "node.crt")[0].public_bytes(Encoding.DER)

    async def look(self, times: int = 2) -> None:
        """Waits until it has looked so many times more."""
        until = len(self.clock.waits) + times
        async with asyncio.timeout(DEADLINE_S):
            while len(self.clock.waits) < until:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def host(folder: Path) -> AsyncIterator[Host]:
    keystore.ensure_authority(folder / "tls", MESH, BEGIN_MS)
    clock = HastyClock(BEGIN_MS)
    first = keystore.open_identity(
        folder / "identity", folder / "tls", MESH, "alpha", ("10.0.0.1",), BEGIN_MS
    )
    Issuing(folder / "tls", MESH, "alpha").record(first.certificate, BEGIN_MS)
    trust = Trust(MESH, keystore.read_roots(folder / "tls"))
    ca, renewed = Ca(folder, clock), []

    async def note(_: Held, fresh: Identity) -> None:
        renewed.append(fresh)

    def held() -> Iterator[Held]:
        return held_here(folder / "identity", folder / "tls", keeps_ca=False)

    renewals = Renewals(trust, ca, held, note, clock)
    task = asyncio.create_task(renewals.run())
    try:
        yield Host(folder, clock, ca, first, trust, renewals, renewed)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_certificate_is_renewed_at_two_thirds_of_its_time_and_not_before(tmp_path: Path):
    async with host(tmp_path) as alpha:
        alpha.clock.now = alpha.first.renew_after_ms - 1
        await alpha.look()
        assert alpha.ca.asked == 0
        alpha.clock.now = alpha.first.renew_after_ms
        await alpha.look()
        (fresh,) = alpha.renewed
        assert fresh.certificate_der == alpha.on_disk
        assert (fresh.id, fresh.key_id) == (alpha.first.id, alpha.first.key_id)
        assert fresh.not_after_ms > alpha.first.not_after_ms
        await alpha.look()
        assert len(alpha.renewed) == 1, "once is enough"


@pytest.mark.parametrize("failure", [LogUnavailable("away"), PkiError("the CA cannot be reached")])
async def test_what_fails_is_tried_again_and_costs_nothing(tmp_path: Path, failure: Exception):
    async with host(tmp_path) as alpha:
        alpha.ca.failures = [failure]
        alpha.clock.now = alpha.first.renew_after_ms
        await alpha.look()
        assert alpha.ca.asked >= 1
        await alpha.look()
        assert len(alpha.renewed) == 1


async def test_a_certificate_of_a_ca_that_is_being_replaced_is_due_at_once(tmp_path: Path):
    async with host(tmp_path) as alpha:
        begin_rotation(tmp_path / "tls", MESH, BEGIN_MS)
        roots = keystore.read_roots(tmp_path / "tls")
        alpha.trust.rotate(roots, [])
        alpha.renewals.look()
        await alpha.look()
        (fresh,) = alpha.renewed
        assert fresh.root == alpha.trust.root_fingerprints[0] != alpha.first.root


async def test_it_looks_again_when_the_next_certificate_is_due_and_every_ten_minutes_at_least(tmp_path: Path):
    async with host(tmp_path) as alpha:
        await alpha.look()
        assert alpha.clock.waits[-1] == 600.0
        alpha.clock.now = alpha.first.renew_after_ms - 5000
        await alpha.look()
        assert alpha.clock.waits[-1] == 5.0


def test_the_nodes_own_certificate_comes_last_so_that_a_new_one_says_that_all_are_new(tmp_path: Path):
    services = tmp_path / "tls" / "services"
    services.mkdir(parents=True)
    (tmp_path / "identity").mkdir()
    for stem in (tmp_path / "identity" / "node", services / "whisper", tmp_path / "tls" / "server"):
        stem.with_suffix(".crt").touch()
        stem.with_suffix(".key").touch()
    (services / "keyless.crt").touch()
    here = [
        held.certificate.stem for held in held_here(tmp_path / "identity", tmp_path / "tls", keeps_ca=False)
    ]
    assert here == ["whisper", "node"]
    at_ca = [
        held.certificate.stem for held in held_here(tmp_path / "identity", tmp_path / "tls", keeps_ca=True)
    ]
    assert at_ca == ["whisper", "server", "node"]
