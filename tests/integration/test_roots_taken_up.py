"""What happens on a host when the mesh's CA was rotated: its file, and whoever stands on that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from http_support import DEADLINE_S, Served, served

from pmoves_mesh.agent.trust.roots import RootsKeeper
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.pki import keystore


class SoonClock(SystemClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path / "alpha") as here:
        yield here


async def test_who_cannot_take_it_up_at_once_keeps_nobody_waiting_and_is_told_again(
    mesh: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    roots = mesh.replica.verifier.trust.roots
    monkeypatch.setattr(mesh.replica.registry, "roots", SimpleNamespace(certificates=roots))
    told: list[str] = []
    done = asyncio.Event()

    async def connection() -> None:
        told.append("connection")
        if told.count("connection") < 3:
            raise LogUnavailable("the server reloads")
        done.set()

    async def renewal() -> None:
        told.append("renewal")

    keeper = RootsKeeper(load({}, tmp_path), mesh.replica, (connection, renewal), SoonClock())
    (tmp_path / "tls").mkdir()
    running = asyncio.create_task(keeper.run())
    async with asyncio.timeout(DEADLINE_S):
        await done.wait()
    assert told[:4] == ["connection", "renewal", "connection", "renewal"]
    assert keystore.read_roots(tmp_path / "tls") == roots
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
