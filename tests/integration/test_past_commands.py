"""`events`, `history`, `diff` and `services --at` with real agents: what happened, and who signed it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from agents import DEADLINE_S, AgentProcess, Mesh, eventually, mesh_in, note
from ports import free_port
from terminal_support import Terminal

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module")
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))


@pytest.fixture(scope="module")
def beta(mesh: Mesh, alpha: AgentProcess) -> AgentProcess:
    del alpha
    return mesh.started("beta", PMOVES_LEASE_TTL_S="2")


@contextmanager
def following(agent: AgentProcess, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*agent.program, "events", "--follow", *arguments],
        cwd=agent.directory,
        env={**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(agent: AgentProcess, *arguments: str) -> Any:
    done = agent.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def whats(agent: AgentProcess, service: str, node: str | None = None) -> list[str]:
    happened = told(agent, "history", service)["history"]
    return [one["what"] for one in happened if node in {None, one["node"]}]


def test_a_history_tells_of_a_life_with_who_signed_each_part_of_it(alpha: AgentProcess, beta: AgentProcess):
    check = {"type": "ttl", "ttl_s": 600}
    beta.register("whisper", id="1", port=9000, capabilities=["stt"], check=check)
    beta.request("PUT", "/api/services/whisper/health", json={"status": "healthy", "output": "fine"})
    beta.register("whisper", id="1", port=9001, capabilities=["stt"], check=check)
    beta.request("PUT", "/api/services/whisper/maintenance", json={"on": True, "reason": "new model"})
    beta.request("PUT", "/api/services/whisper/maintenance", json={"on": False})
    beta.delete("/api/services/whisper")
    eventually(lambda: not alpha.knows("whisper"), "alpha knows that it is gone")
    happened = told(alpha, "history", "whisper")["history"]
    words = [one["what"] for one in happened]
    for expected in ("registered", "health", "moved", "maintenance", "deregistered"):
        assert expected in words, words
    assert words[0] == "registered"
    assert words[-1] == "deregistered"
    assert all(one["verified"] and one["signer"].endswith("/node/beta") for one in happened)
    assert [one["position"] for one in happened] == sorted(one["position"] for one in happened)
    details = {(one["what"], one["detail"]) for one in happened}
    assert ("health", "unknown -> healthy: fine") in details
    assert ("moved", "127.0.0.1:9000 -> 127.0.0.1:9001") in details
    assert ("maintenance", "on: new model") in details
    table = alpha.run("history", "whisper").stdout
    assert "node/beta" in table


def test_a_service_goes_with_its_node_and_comes_back_with_it(alpha: AgentProcess, beta: AgentProcess):
    beta.register("rag", id="1", port=9002)
    eventually(lambda: alpha.knows("rag"), "alpha knows it")
    beta.kill()
    eventually(lambda: "lost" in whats(alpha, "rag"), "its loss is told")
    beta.restart()
    eventually(lambda: "back" in whats(alpha, "rag"), "its return is told")
    lost = next(one for one in told(alpha, "history", "rag")["history"] if one["what"] == "lost")
    assert lost["signer"].endswith("/node/alpha")
    assert "says alpha" in lost["detail"]


def test_the_registry_as_it_was_and_what_is_different_since(alpha: AgentProcess):
    alpha.register("tts", id="1", port=9003)
    before = alpha.get("/api/services/tts").body["position"]
    alpha.register("tts", id="1", port=9004)
    alpha.register("ollama", id="1", port=9005)
    eventually(lambda: alpha.registry["outbox"] == 0, "all of it is in the stream")
    then = told(alpha, "services", "--at", str(before))
    assert [one["port"] for one in then["services"] if one["name"] == "tts"] == [9003]
    assert "ollama" not in {one["name"] for one in then["services"]}
    assert then["at"]["position"] == before
    assert "alpha" in {one["name"] for one in told(alpha, "nodes", "--at", str(before))["nodes"]}
    changed = told(alpha, "diff", "--from", str(before))
    assert [one["name"] for one in changed["added"]] == ["ollama"]
    assert [(one["after"]["name"], one["fields"]) for one in changed["changed"]] == [("tts", ["port"])]
    lines = alpha.run("diff", "--from", str(before), "--to", "now").stdout.splitlines()
    assert "+\tollama\t1\talpha\t127.0.0.1:9005" in lines
    assert "~\ttts\t1\talpha\tport: 9003 -> 9004" in lines


def test_a_time_of_the_operators_zone_is_the_moment_that_it_names(alpha: AgentProcess):
    alpha.register("zoned", id="1", port=9006)
    eventually(lambda: alpha.registry["outbox"] == 0, "it is in the stream")
    event = alpha.get("/api/events", service="zoned").body["events"][0]
    here = datetime.fromisoformat(event["time"]).astimezone().replace(tzinfo=None)
    for moment in (here.isoformat(timespec="milliseconds"), event["time"]):
        seen = told(alpha, "services", "--at", moment)
        assert seen["at"]["position"] == event["position"]
        assert "zoned" in {one["name"] for one in seen["services"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("services", "--at", "2020-01-01T00:00"),
        ("nodes", "--at", "3650d"),
        ("diff", "--from", "2020-01-01"),
        ("events", "--since", "2020-01-01T00:00Z"),
        ("history", "whisper", "--since", "3650d"),
    ],
)
def test_before_the_first_event_that_is_kept_nothing_can_be_told(
    alpha: AgentProcess, arguments: tuple[str, ...]
):
    done = alpha.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pmoves-mesh: ")
    assert len(done.stderr.splitlines()) == 1
    assert time.strftime("%Y-%m-%dT", time.gmtime()) in done.stderr


def test_a_moment_to_come_is_refused_in_one_line(alpha: AgentProcess):
    done = alpha.run("services", "--at", "99999999")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_events_that_come_are_printed_as_they_come(alpha: AgentProcess):
    with following(alpha, "--service", "sudden") as process:
        eventually(lambda: alpha.get("/metrics").status == 200, "the agent answers")
        alpha.register("sudden", id="1", port=9007)
        begin = time.perf_counter()
        assert process.stdout is not None
        line = process.stdout.readline()
        took_s = time.perf_counter() - begin
        note(f"an event was printed {took_s:.3f} s after its registration was answered")
        assert "sudden/1 on alpha" in line
        assert line.rstrip().endswith("by node/alpha")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0


def test_no_event_is_missed_while_the_agent_is_away(mesh: Mesh):
    gamma = mesh.started("gamma", SERVICE_REGISTRY_PORT=str(free_port()))
    gamma.register("steady", id="0", port=1)
    eventually(lambda: gamma.registry["outbox"] == 0, "it is in the stream")
    with following(gamma, "--service", "steady", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "0"
        gamma.kill()
        assert "broke; trying again" in process.stderr.readline()
        gamma.start().ready()
        for number in (1, 2, 3):
            gamma.register("steady", id=str(number), port=number)
        seen: set[str] = set()
        while seen != {"1", "2", "3"}:
            seen |= {json.loads(process.stdout.readline())["id"]} - {"0"}


def test_a_reader_that_goes_ends_following_although_nothing_happens(alpha: AgentProcess):
    alpha.register("quiet", id="1", port=9008)
    eventually(lambda: alpha.registry["outbox"] == 0, "it is in the stream")
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(alpha.program)} events --follow --service quiet | head -n 1"],
        cwd=alpha.directory,
        env={**alpha.environment, "SERVICE_REGISTRY_PORT": alpha.url.rpartition(":")[2]},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "quiet/1" in done.stdout


def test_a_subject_may_hold_wildcards(alpha: AgentProcess):
    lines = alpha.run("events", "--subject", "mesh.node.>", "--since", "1", "--json").stdout.splitlines()
    assert lines
    assert {json.loads(line)["subject"].rpartition(".node.")[0] for line in lines} == {"mesh"}


def test_a_new_event_appears_in_top_without_a_key(alpha: AgentProcess):
    environment = {**alpha.environment, "SERVICE_REGISTRY_PORT": alpha.url.rpartition(":")[2]}
    with Terminal([*alpha.program, "top"], environment, alpha.directory, (100, 24)) as terminal:
        terminal.press("3")
        terminal.shows("registered")
        alpha.register("newest", id="1", port=9009)
        note(
            f"an event appeared in top {terminal.shows('newest/1'):.3f} s after its registration was answered"
        )
        assert "newest/1" in terminal.drawn[3]
        terminal.press("q")
        assert terminal.ended() == 0


def test_an_event_with_escapes_in_it_never_steers_the_terminal(alpha: AgentProcess, tmp_path: Path):
    del tmp_path
    evil = "\x1b[2J\x07"
    alpha.register("sly", id="1", port=9, metadata={"note": evil}, check={"type": "ttl", "ttl_s": 600})
    alpha.request("PUT", "/api/services/sly/health", json={"status": "unhealthy", "output": evil})
    eventually(lambda: alpha.registry["outbox"] == 0, "it is in the stream")
    for command, said in (
        ("events --service sly", "sly/1"),
        ("history sly", "[2J"),
        ("diff --from 2", "sly"),
    ):
        assert said in alpha.run(*command.split()).stdout
        for as_json in ([], ["--json"]):
            out = alpha.run(*command.split(), *as_json).stdout
            assert not {"\x1b", "\x07"} & set(out)
