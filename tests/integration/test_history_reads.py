"""The registry as it was: at a position, at a time, and what differs between two moments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from agents import LAST_SEEN, AgentProcess, Answer, Mesh, eventually, mesh_in
from history_support import keep, on_checkpoints, told

from pmoves_mesh.agent.history.desk import QUESTIONS_MAX
from pmoves_mesh.log.checkpoints import NatsCheckpoints


@dataclass(frozen=True)
class Told:
    """A mesh with a past, and where in it things happened."""

    mesh: Mesh
    first: int
    second: int
    unhealthy: int
    gone: int

    @property
    def alpha(self) -> AgentProcess:
        return self.mesh.agents["alpha"]

    @property
    def beta(self) -> AgentProcess:
        return self.mesh.agents["beta"]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with mesh_in(tmp_path_factory.mktemp("history")) as mesh:
        alpha, beta = mesh.started("alpha"), mesh.started("beta")
        first = alpha.register("one", port=1, capabilities=["stt"]).position
        second = beta.register("two", port=2).position
        unhealthy = alpha.register("one", port=1, capabilities=["stt"], metadata={"run": 2}).position
        gone = alpha.delete("/api/services/one").position
        mesh.agree()
        yield Told(mesh, first, second, unhealthy, gone)


@pytest.fixture(scope="module")
def alpha(past: Told) -> AgentProcess:
    return past.alpha


def at(agent: AgentProcess, moment: object, path: str = "/api/services", **query: Any) -> Answer:
    answer = agent.get(path, at=moment, **query)
    assert answer.status == 200, answer.text
    return answer


def names(answer: Answer) -> list[str]:
    return [one["name"] for one in answer.body["services"]]


def test_what_was_registered_is_there_from_its_position_on_until_it_went(past: Told):
    alpha = past.alpha
    assert names(at(alpha, past.first)) == ["one"]
    assert names(at(alpha, past.second)) == ["one", "two"]
    assert names(at(alpha, past.gone)) == ["two"]


def test_an_answer_names_the_moment_that_it_is_of(past: Told):
    answer = at(past.alpha, past.second)
    (event,) = told(past.alpha, after=past.second - 1, limit=1)["events"]
    assert answer.body["at"] == {"position": past.second, "time": event["time"], "checkpoint": None}
    assert answer.position == past.second
    assert answer.body["count"] == 2


def test_a_time_is_a_moment_too(past: Told):
    (event,) = told(past.alpha, after=past.second - 1, limit=1)["events"]
    answer = at(past.alpha, event["time"])
    assert "two" in names(answer)
    assert answer.body["at"]["time"] == event["time"]


def test_now_is_what_the_agent_serves_without_a_moment(past: Told):
    now, present = at(past.alpha, "now").body, past.alpha.get("/api/services").body
    assert now["services"] == present["services"]


def test_filters_hold_in_the_past_as_they_do_now(past: Told):
    alpha, second = past.alpha, past.second
    assert names(at(alpha, second, name="one")) == ["one"]
    assert names(at(alpha, second, node="beta")) == ["two"]
    assert names(at(alpha, second, capability="stt")) == ["one"]
    assert names(at(alpha, second, capability="stt", node="beta")) == []
    assert alpha.get("/api/services", at=second, mode="flying").status == 422


def test_the_nodes_of_a_moment_are_told(past: Told):
    answer = at(past.alpha, past.first, "/api/nodes")
    assert [node["name"] for node in answer.body["nodes"]] == ["alpha", "beta"]
    assert {node["name"]: node["services"] for node in answer.body["nodes"]} == {"alpha": ["one"], "beta": []}
    assert answer.body["at"]["position"] == past.first
    assert [node["name"] for node in at(past.alpha, 1, "/api/nodes").body["nodes"]] == ["alpha"]


def test_two_agents_tell_the_same_of_the_same_moment(past: Told):
    for path in ("/api/services", "/api/nodes"):
        for position in range(1, past.gone + 1):
            assert at(past.alpha, position, path).text == at(past.beta, position, path).text


@pytest.mark.parametrize("moment", [0, "7d", "2020-01-01", "2026-01-01T00:00:00Z"])
@pytest.mark.parametrize("path", ["/api/services", "/api/nodes"])
def test_before_the_first_event_the_answer_is_410_and_says_from_when_on(
    alpha: AgentProcess, path: str, moment: object
):
    answer = alpha.get(path, at=moment)
    first = told(alpha)["first"]
    assert (answer.status, answer.body["from_position"]) == (410, 1)
    assert answer.body["from_time"] == first["time"]
    assert "position 1" in answer.body["detail"]
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("moment", [10**9, "2099-01-01T00:00:00Z", "yesterday", "-1", "5y"])
def test_what_is_still_to_come_or_no_moment_is_422_and_names_the_parameter(
    alpha: AgentProcess, moment: object
):
    answer = alpha.get("/api/services", at=moment)
    assert (answer.status, answer.body["field"]) == (422, "at")


def test_an_empty_moment_counts_as_absent(alpha: AgentProcess):
    assert "at" not in alpha.get("/api/services", at="").body


# What differs


def diff(agent: AgentProcess, begin: object, end: object | None = None) -> dict[str, Any]:
    answer = agent.get("/api/diff", **({"from": begin} if end is None else {"from": begin, "to": end}))
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.body
    return found


def test_what_came_went_and_changed_between_two_moments_is_told(past: Told):
    found = diff(past.alpha, past.first, past.unhealthy)
    assert [one["name"] for one in found["added"]] == ["two"]
    assert [(one["after"]["name"], one["fields"]) for one in found["changed"]] == [("one", ["metadata"])]
    assert found["changed"][0]["before"]["metadata"] == {}
    assert found["removed"] == []
    assert (found["from"]["position"], found["to"]["position"]) == (past.first, past.unhealthy)


def test_until_now_is_what_a_difference_is_told_to_if_nothing_else_is_asked(past: Told):
    found = diff(past.alpha, past.second)
    assert [one["name"] for one in found["removed"]] == ["one"]
    assert found["to"] == told(past.alpha)["last"]
    assert [one["fields"] for one in found["nodes"]["changed"]] == [["services", "instances"]]


def test_a_moment_and_itself_do_not_differ(past: Told):
    found = diff(past.alpha, past.second, past.second)
    assert (found["added"], found["removed"], found["changed"]) == ([], [], [])
    assert found["nodes"] == {"added": [], "removed": [], "changed": []}


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({}, 422, "from"),
        ({"from": 5, "to": 2}, 422, "to"),
        ({"from": 0}, 410, "from"),
        ({"from": 1, "to": 10**9}, 422, "to"),
        ({"from": "nonsense"}, 422, "from"),
    ],
)
def test_a_difference_that_cannot_be_told_says_which_moment_is_at_fault(
    alpha: AgentProcess, query: dict[str, Any], status: int, field: str
):
    answer = alpha.get("/api/diff", **query)
    assert (answer.status, answer.body["field"]) == (status, field)


# How many may ask


def test_more_questions_at_a_time_than_are_answered_are_refused_with_a_word_when_to_come_again(
    alpha: AgentProcess,
):
    with ThreadPoolExecutor(8 * QUESTIONS_MAX) as askers:
        answers = list(askers.map(lambda _: alpha.get("/api/diff", **{"from": 1}), range(16 * QUESTIONS_MAX)))
    assert {answer.status for answer in answers} <= {200, 503}
    for refused in (answer for answer in answers if answer.status == 503):
        assert refused.headers["Retry-After"] == "1"
        assert f"at most {QUESTIONS_MAX} questions about the past" in refused.body["detail"]
    assert any(answer.status == 200 for answer in answers)
    assert alpha.get("/api/diff", **{"from": 1}).status == 200


# Checkpoints


def test_what_rests_on_a_checkpoint_says_who_made_it_and_is_the_same(past: Told):
    alpha, beta = past.alpha, past.beta
    before = {position: at(alpha, position).body["services"] for position in range(1, past.gone + 1)}
    assert keep(beta, past.second) == [past.second]
    try:
        for position, services in before.items():
            one, other = at(alpha, position), at(beta, position)
            assert one.text == other.text
            assert json.dumps(one.body["services"]) == json.dumps(services)
            made = {"position": past.second, "signer": "spiffe://pmoves-mesh/node/beta"}
            assert one.body["at"]["checkpoint"] == (made if position >= past.second else None)
    finally:
        on_checkpoints(alpha, remove_all)


async def remove_all(checkpoints: NatsCheckpoints) -> None:
    for place in await checkpoints.listed():
        await checkpoints.delete(place)


# Outages


def test_without_nats_the_past_cannot_be_told_and_is_again_afterwards(tmp_path: Any):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        position = alpha.register("one", port=1).position
        services = at(alpha, position).body["services"]
        mesh.server.kill()
        eventually(lambda: not alpha.is_ready(), "alpha sees that NATS is away")
        refused = alpha.get("/api/services", at=position)
        assert refused.status == 503
        assert "the past cannot be told now" in refused.body["detail"]
        assert names(alpha.get("/api/services")) == ["one"]
        mesh.server.start()
        eventually(lambda: alpha.get("/api/services", at=position).status == 200, "the past is told again")
        told_again = LAST_SEEN.sub("", at(alpha, position).text)
        assert told_again == LAST_SEEN.sub("", at(alpha, position).text)
        assert at(alpha, position).body["services"] == services
        assert alpha.terminate() < 5.0
