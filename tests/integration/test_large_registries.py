"""When an agent gives back what a large registry took for a moment, and that a small one costs it nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from following import DEADLINE_S, Joining

from pmoves_mesh.agent import saver
from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.store.store import Store


class Counted:
    """Stands for giving memory back, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        monkeypatch.setattr(saver, "give_back", self)

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


async def test_a_large_snapshot_is_tidied_up_after_once_and_every_later_one_by_the_c_library(
    given_back: Counted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(saver, "_LARGE_BYTES", 1)
    mesh = Joining()
    async with Store.opened(tmp_path) as store, mesh.following() as replica:
        own = Saver("mesh", replica, store, mesh.clock)
        await own.load()
        assert given_back.times == 0
        for revision in (1, 2):
            await replica.wait_position(mesh.publish(revision), DEADLINE_S)
            await own.save()
        assert given_back.times == 1
        next_run = Saver("mesh", Joining().replica, store, mesh.clock)
        await next_run.load()
        assert given_back.times == 2


async def test_a_small_registry_takes_nothing_that_would_have_to_be_given_back(
    given_back: Counted, tmp_path: Path
):
    mesh = Joining()
    mesh.publish(1)
    async with Store.opened(tmp_path) as store, mesh.following() as replica:
        await Saver("mesh", replica, store, mesh.clock).save()
    assert given_back.times == 0
