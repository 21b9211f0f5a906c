"""How a host of a cluster learns whose certificates hold: from the named nodes, and from nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from authority_host import MESH, Host
from log_support import eventually
from structlog.testing import capture_logs

from pmoves_mesh.agent.trust.issued import IssuedFollower
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.pki import keystore
from pmoves_mesh.store.issued import Holder, IssuedCopy, IssuedList

PATH = "/api/trust/issued"
CLOCK = SystemClock()


def listed(owner: str, *names: str) -> tuple[int, dict[str, object]]:
    """Returns what a host of the CA answers."""
    holders = tuple(
        Holder(kind="node", name=name, key_id="a" * 64, fingerprint=f"{number}" * 64, not_after_ms=10**13)
        for number, name in enumerate(names)
    )
    return 200, msgspec.to_builtins(IssuedList(owner=owner, holders=holders))


class Beta:
    """A host of the cluster of main, beta and gamma, without the CA."""

    def __init__(self, directory: Path, main: Host, *urls: str) -> None:
        keystore.open_identity(directory / IDENTITY_DIR, main.tls_dir, MESH, "beta", (), CLOCK.now_ms())
        settings = {
            "PMOVES_MESH_NAME": MESH,
            "MESH_HOSTNAME": "beta",
            "PMOVES_NATS_HOST": "0.0.0.0",
            "PMOVES_NATS_CLUSTER": "main,beta,gamma",
            "PMOVES_DATA_DIR": str(directory),
            "PMOVES_TLS_DIR": str(main.tls_dir),
        }
        self.copy = IssuedCopy(directory / "issued.json")
        config = load(settings, directory)
        self.follower = IssuedFollower(config, self.copy, lambda: urls or (main.url,), CLOCK)

    def names(self) -> set[str]:
        return {one.name for one in self.copy.certificates()}

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def main(tmp_path: Path) -> AsyncIterator[Host]:
    async with Host(tmp_path / "main").serving() as host:
        yield host


async def test_the_first_start_waits_for_the_cas_host_and_shows_it_who_asks(tmp_path: Path, main: Host):
    main.answers[PATH] = (503, {"title": "not yet"})
    beta = Beta(tmp_path / "beta", main)
    with capture_logs() as logs:
        waiting = asyncio.create_task(beta.follower.first())

        async def asked() -> bool:
            return len(main.asked) >= 2

        await eventually(asked)
        assert not waiting.done()
        main.answers[PATH] = listed("main", "beta", "delta")
        await waiting
    assert beta.copy.owner == "main"
    assert beta.names() == {"beta", "delta"}
    assert set(main.peers) == {f"spiffe://{MESH}/node/beta"}
    assert [line["event"] for line in logs] == ["who may log in to NATS is not told by the CA's host"]


async def test_a_later_start_waits_for_nobody(tmp_path: Path, main: Host):
    main.answers[PATH] = listed("main", "beta")
    await Beta(tmp_path / "beta", main).follower.first()
    again = Beta(tmp_path / "beta", main, "https://127.0.0.1:1")
    await again.follower.first()
    assert again.names() == {"beta"}


async def test_what_the_cas_host_says_later_is_taken_up(tmp_path: Path, main: Host):
    main.answers[PATH] = listed("main", "beta")
    beta = Beta(tmp_path / "beta", main)
    await beta.follower.first()
    async with beta.following():
        main.answers[PATH] = listed("main", "beta", "epsilon")

        async def is_told() -> bool:
            return beta.names() == {"beta", "epsilon"}

        await eventually(is_told)


async def test_a_member_that_is_not_named_is_not_believed(tmp_path: Path, main: Host):
    """It is of the mesh, and says that the CA is its own and that a friend of it may log in."""
    keystore.open_identity(tmp_path / "thief", main.tls_dir, MESH, "thief", (), CLOCK.now_ms())
    main.identity_dir = tmp_path / "thief"
    main.answers[PATH] = listed("thief", "friend")
    async with main.serving():
        beta = Beta(tmp_path / "beta", main)
        with capture_logs() as logs:
            waiting = asyncio.create_task(beta.follower.first())

            async def refused() -> bool:
                return any("node/thief is not one of" in line["detail"] for line in logs)

            await eventually(refused)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert main.asked == []
    assert beta.copy.owner == ""
