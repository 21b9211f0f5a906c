from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pmoves_mesh.agent.renewal import Renewal
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.identity import Identity

MESH = "pmoves-mesh"
BEGIN_MS = 1_800_000_000_000
DEADLINE_S = 10.0


class HastyClock(SystemClock):
    """A clock that stands where it is put, and whose waits are over at once."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms
        self.looks = 0

    def now_ms(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.looks += 1
        await asyncio.sleep(0)


def open_identity(folder: Path, now_ms: int) -> Identity:
    return keystore.open_identity(folder / "identity", folder / "tls", MESH, "alpha", ("10.0.0.1",), now_ms)


async def looked(clock: HastyClock, times: int) -> None:
    until = clock.looks + times
    async with asyncio.timeout(DEADLINE_S):
        while clock.looks < until:
            await asyncio.sleep(0)


async def test_a_certificate_is_renewed_at_two_thirds_of_its_time_and_not_before(tmp_path: Path):
    keystore.ensure_authority(tmp_path / "tls", MESH, BEGIN_MS)
    clock = HastyClock(BEGIN_MS)
    first = open_identity(tmp_path, clock.now)
    adopted: list[Identity] = []
    failures = [LogUnavailable("away")]

    async def adopt(fresh: Identity) -> None:
        if failures:
            raise failures.pop()
        adopted.append(fresh)

    task = asyncio.create_task(Renewal(first, lambda: open_identity(tmp_path, clock.now), adopt, clock).run())
    try:
        clock.now = first.renew_after_ms - 1
        await looked(clock, 3)
        assert not adopted
        clock.now = first.renew_after_ms
        async with asyncio.timeout(DEADLINE_S):
            while not adopted:
                await asyncio.sleep(0)
        await looked(clock, 3)
    finally:
        task.cancel()
        await asyncio.wait((task,))
    (fresh,) = adopted
    assert not failures, "an outage is tried again"
    assert fresh.fingerprint != first.fingerprint
    assert fresh.not_after_ms > first.not_after_ms
    assert fresh.key.public_key() == first.key.public_key()


async def test_a_certificate_that_cannot_be_renewed_stays_in_use(tmp_path: Path):
    keystore.ensure_authority(tmp_path / "tls", MESH, BEGIN_MS)
    clock = HastyClock(BEGIN_MS)
    first = open_identity(tmp_path, clock.now)
    (tmp_path / "tls" / "ca.key").unlink()
    clock.now = first.renew_after_ms

    async def adopt(_fresh: Identity) -> None:
        pytest.fail("there is nothing new to adopt")

    task = asyncio.create_task(Renewal(first, lambda: open_identity(tmp_path, clock.now), adopt, clock).run())
    await looked(clock, 3)
    assert not task.done()
    task.cancel()
    await asyncio.wait((task,))
