"""What was there before: the registry at a moment, and what it takes to be told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agents import AgentProcess, Mesh, mesh_in


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("history")) as made:
        made.started("alpha")
        made.started("beta")
        yield made


@pytest.fixture(scope="module")
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


def names_at(agent: AgentProcess, at: object) -> list[str]:
    answer = agent.get("/api/services", at=at)
    assert answer.status == 200, answer.text
    return [one["name"] for one in answer.body["services"]]


def test_what_was_registered_is_there_from_its_position_on(alpha: AgentProcess) -> None:
    before = alpha.register("one", port=1).position
    after = alpha.register("two", port=2).position
    assert names_at(alpha, before) == ["one"]
    assert names_at(alpha, after) == ["one", "two"]
