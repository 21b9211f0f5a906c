"""The commands that ask for the past, against an HTTP server that answers as an agent does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

from pmoves_mesh.cli.main import main

SETTING_PREFIXES = ("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")
SIGNER = "spiffe://lab/node/alpha"
TIME = "2030-01-01T00:00:{:02}.000Z"
PAGE = 3
GONE = {
    "title": "Gone",
    "status": 410,
    "detail": "the stream begins at position 5, of 2030-01-01T00:00:05.000Z; ask for what came from then on",
    "from_position": 5,
    "from_time": TIME.format(5),
}
RECORD = {
    "name": "whisper",
    "id": "1",
    "node": "alpha",
    "host": "10.0.0.1",
    "port": 9000,
    "mode": "docked",
    "capabilities": ["stt"],
    "health_status": "healthy",
    "verified": True,
    "last_seen": TIME.format(1),
}
NODE = {"name": "alpha", "status": "alive", "host": "10.0.0.1", "port": 8100, "mode": "docked"}


def event(position: int, kind: str = "registered", **fields: Any) -> dict[str, Any]:
    return {
        "position": position,
        "time": TIME.format(position),
        "type": kind,
        "node": "alpha",
        "subject": f"service.registry.{kind}",
        "service": "whisper",
        "id": "1",
        "incarnation": 1,
        "revision": position,
        "verified": True,
        "signer": SIGNER,
        "fingerprint": "ab" * 32,
        "refused": "",
        "size": 100,
        "data": {"type": kind, "data": RECORD},
        **fields,
    }


@dataclass
class PastAgent:
    """Answers from a list of events, of which it looks at a few at a time, and remembers what was asked."""

    events: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    problem: dict[str, Any] | None = None
    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, str]) -> Any:
        self.asked.append((path, query))
        if path != "/api/events":
            return self.answers[path]
        since = int(query["since"]) - 1 if query.get("since", "").isdigit() else 0
        after, before = int(query.get("after", since)), int(query.get("before", len(self.events) + 1))
        looked_at = [one for one in self.events if after < one["position"] < before]
        more = len(looked_at) > PAGE
        looked_at = looked_at[:PAGE] if query["order"] == "asc" else looked_at[::-1][:PAGE]
        page = [one for one in looked_at if self._matches(one, query)]
        assert len(page) <= int(query["limit"])
        ends = {"first": {"position": 1}, "last": {"position": len(self.events)}}
        reached = looked_at[-1]["position"] if more else None
        return {"count": len(page), "events": page, **ends, "more": more, "next": reached}

    def _matches(self, one: dict[str, Any], query: dict[str, str]) -> bool:
        if query.get("subject") == "mesh.node.>" and not one["subject"].startswith("mesh.node."):
            return False
        return all(one[name] == query[name] for name in ("node", "service") if name in query)


@pytest.fixture
def agent() -> Iterator[PastAgent]:
    past = PastAgent()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if past.problem is None:
                body = past.answer(parts.path, dict(parse_qsl(parts.query)))
            else:
                body = past.problem
            raw = json.dumps(body).encode()
            self.send_response(200 if past.problem is None else past.problem["status"])
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: object) -> None:
            """Says nothing: the test's output is the command's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        past.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield past
        server.shutdown()
        thread.join()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: PastAgent
) -> Run:
    """Runs a command in an empty folder, with no setting of this host's but the agent's port."""
    for name in list(os.environ):
        if name.startswith(SETTING_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_REGISTRY_PORT", str(agent.port))

    def run_command(*arguments: str) -> Outcome:
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run_command


def test_the_latest_events_are_printed_a_line_each_the_oldest_first(run: Run, agent: PastAgent):
    agent.events = [event(1), event(2, "health"), event(3, refused="bad signature", verified=False)]
    outcome = run("events")
    assert (outcome.code, outcome.err) == (0, "")
    first, second, third = outcome.out.splitlines()
    assert first.split()[1:] == [
        "1",
        "registered",
        "whisper/1",
        "on",
        "alpha",
        "10.0.0.1:9000",
        "by",
        "node/alpha",
    ]
    assert second.split()[2] == "health"
    assert third.endswith("refused: bad signature")
    assert agent.asked == [("/api/events", {"order": "desc", "limit": "100"})]


def test_events_since_a_moment_are_read_page_by_page(run: Run, agent: PastAgent):
    agent.events = [event(number) for number in range(1, 9)]
    outcome = run("events", "--since", "1h", "--json", "--node", "alpha", "--service", "whisper")
    told = [json.loads(line) for line in outcome.out.splitlines()]
    assert told == agent.events
    same = {"order": "asc", "limit": "1000", "node": "alpha", "service": "whisper"}
    assert [query for _, query in agent.asked] == [
        {**same, "since": "1h"},
        {**same, "after": "3"},
        {**same, "after": "6"},
    ]


def test_what_is_rare_is_found_wherever_in_the_stream_it_stands(run: Run, agent: PastAgent):
    agent.events = [
        event(number, service="rare" if number in {2, 11} else "whisper") for number in range(1, 21)
    ]
    for arguments in (["events"], ["events", "--since", "1"]):
        told = [json.loads(line) for line in run(*arguments, "--service", "rare", "--json").out.splitlines()]
        assert [one["position"] for one in told] == [2, 11]
    assert json.loads(run("history", "rare", "--json").out)["count"] == 2


def test_a_subject_is_the_agents_to_match(run: Run, agent: PastAgent):
    run("events", "--subject", "service.registry.>")
    assert agent.asked[0][1]["subject"] == "service.registry.>"


@pytest.mark.parametrize("command", ["events", "history"])
def test_nothing_in_an_event_steers_the_terminal(run: Run, agent: PastAgent, command: str):
    evil = "\x1b[2J\x07\n"
    record = {**RECORD, "host": evil, "health_output": evil, "capabilities": [evil]}
    agent.events = [event(1, signer=evil, refused=evil, subject=evil, type=evil, node=evil, id=evil)]
    agent.events += [
        event(2, data={"data": record}),
        event(3, "evicted", data={"operator": evil, "reason": evil}),
    ]
    outcome = run(command, *(["whisper"] if command == "history" else []))
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert "\\x1b[2J\\x07\\n" in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["services", "--at", "1h"],
        ["nodes", "--at", "2026-11-23T06:00"],
        ["events", "--since", "7d"],
        ["history", "whisper", "--since", "7d"],
        ["diff", "--from", "7d"],
    ],
)
def test_a_moment_before_the_first_event_is_one_line_that_says_from_when_on(
    run: Run, agent: PastAgent, arguments: list[str]
):
    agent.problem = GONE
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"pmoves-mesh: {GONE['detail']}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["services", "--at", "yesterday"],
        ["nodes", "--at", ""],
        ["events", "--since", "1y"],
        ["events", "no-such-command"],
        ["events", "--since", "1h", "tail", "ingest.>"],
        ["events", "tail"],
        ["history"],
        ["diff"],
        ["diff", "--from", "soon"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(run: Run, arguments: list[str]):
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Error: " in outcome.err


def test_the_services_of_a_moment_are_a_table_and_beside_it_which_moment_that_is(run: Run, agent: PastAgent):
    at = {"position": 7, "time": TIME.format(7), "checkpoint": None}
    agent.answers["/api/services"] = {"count": 1, "services": [RECORD], "at": at}
    outcome = run("services", "--at", "2026-11-23T06:00Z", "--capability", "stt")
    assert agent.asked == [("/api/services", {"at": "2026-11-23T06:00:00.000Z", "capability": "stt"})]
    assert outcome.out.splitlines()[1].startswith("whisper\t1\talpha\t10.0.0.1:9000\thealthy")
    assert outcome.err.startswith("as it was at position 7, whose event is of 20")
    assert json.loads(run("services", "--at", "7", "--json").out)["at"] == at


def test_the_nodes_of_a_moment_likewise(run: Run, agent: PastAgent):
    at = {"position": 7, "time": TIME.format(7), "checkpoint": None}
    agent.answers["/api/nodes"] = {"count": 1, "nodes": [NODE], "at": at}
    outcome = run("nodes", "--at", "7")
    assert outcome.out.splitlines()[1].startswith("alpha\talive\t10.0.0.1:8100")
    assert "position 7" in outcome.err


def test_a_difference_is_a_line_each_with_the_fields_that_changed(run: Run, agent: PastAgent):
    moved = {**RECORD, "port": 9001, "health_status": "unhealthy"}
    changed = {"before": RECORD, "after": moved, "fields": ["port", "health_status"]}
    lost = {"before": NODE, "after": {**NODE, "status": "lost"}, "fields": ["status"]}
    ends = {"from": {"position": 3, "time": TIME.format(3)}, "to": {"position": 9, "time": TIME.format(9)}}
    answer = {
        **ends,
        "added": [{**RECORD, "id": "2"}],
        "removed": [{**RECORD, "id": "3"}],
        "changed": [changed],
        "nodes": {"added": [{**NODE, "name": "beta"}], "removed": [], "changed": [lost]},
    }
    agent.answers["/api/diff"] = answer
    outcome = run("diff", "--from", "1h")
    assert agent.asked == [("/api/diff", {"from": "1h", "to": "now"})]
    assert [line.split("\t") for line in outcome.out.splitlines()] == [
        ["", "SERVICE", "ID", "NODE", "CHANGE"],
        ["+", "", "", "beta", "10.0.0.1:8100"],
        ["+", "whisper", "2", "alpha", "10.0.0.1:9000"],
        ["-", "whisper", "3", "alpha", "10.0.0.1:9000"],
        ["~", "", "", "alpha", "status: alive -> lost"],
        ["~", "whisper", "1", "alpha", "port: 9000 -> 9001; health_status: healthy -> unhealthy"],
    ]
    assert "(position 3) to " in outcome.err
    assert (outcome.code, json.loads(run("diff", "--from", "1h", "--json").out)) == (0, answer)


def test_a_history_holds_what_happened_to_the_service_and_to_its_node(run: Run, agent: PastAgent):
    lost = {"subject": "mesh.node.lost.v1", "service": "", "id": "", "signer": "spiffe://lab/node/beta"}
    agent.events = [
        event(1),
        event(2, service="rag"),
        event(3, "mesh.node.lost.v1", data={"witness": "beta", "reason": "silence"}, **lost),
        event(4, "mesh.node.lost.v1", **{**lost, "node": "gamma"}),
    ]
    outcome = run("history", "Whisper")
    rows = [line.split("\t")[1:] for line in outcome.out.splitlines()]
    assert rows == [
        ["WHAT", "NODE", "ID", "DETAIL", "SIGNED BY", "POSITION"],
        ["registered", "alpha", "1", "at 10.0.0.1:9000, can stt", "node/alpha", "1"],
        ["lost", "alpha", "1", "its node is lost, says beta: silence", "node/beta", "3"],
    ]
    told = json.loads(run("history", "whisper", "--json").out)
    assert told["count"] == 2
    assert told["history"][1]["signer"] == "spiffe://lab/node/beta"
    assert told["history"][0]["fingerprint"] == "ab" * 32


def test_a_history_since_a_moment_still_knows_what_was_before(run: Run, agent: PastAgent):
    sick = {"data": {**RECORD, "health_status": "unhealthy"}}
    agent.events = [event(1), event(2, "health", data=sick)]
    _, line = run("history", "whisper", "--since", "2").out.splitlines()
    assert line.split("\t")[1:5] == ["health", "alpha", "1", "healthy -> unhealthy"]
    assert run("history", "whisper", "--since", "3").out.count("\n") == 1


def test_a_service_of_which_the_stream_tells_nothing_is_one_line(run: Run):
    outcome = run("history", "nobody")
    assert (outcome.code, outcome.out) == (1, "")
    assert "the stream tells nothing of a service nobody" in outcome.err


def test_events_tail_is_still_what_applications_tell(run: Run):
    assert "what the streams keep" in run("events", "tail", "--help").out
