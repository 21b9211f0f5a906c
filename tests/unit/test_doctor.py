"""What `doctor` finds: each check with its ailment and without, and all of them through the command."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nats_server import NatsServer

from pmoves_mesh.cli import check_agent, check_network
from pmoves_mesh.cli.doctor import CHECKS as ALL_CHECKS
from pmoves_mesh.cli.findings import AgentState, Check, Complaint, Finding, Host, run_checks
from pmoves_mesh.cli.main import main
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.errors import PkiError
from pmoves_mesh.log.api import StreamState
from pmoves_mesh.log.application import Standing
from pmoves_mesh.log.survey import STREAMS, ClusterFacts, ReplicaFacts, StreamFacts, Survey
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_key, write_key

NOW_MS = SystemClock().now_ms()
DAY_MS = 86_400_000
DEADLINE_S = 30.0
CHECKS = {check.name: check for check in ALL_CHECKS}
WELL = AgentState(
    url="http://127.0.0.1:8100", alive=True, current=True, registry={"warnings": [], "position": 7}
)
NO_MESH_BEHIND_IT = {"NATS", "lease", "agreement"}
"""The checks that need a real mesh: see tests/integration/test_doctor_breaks.py."""


def stream(**config: Any) -> StreamFacts:
    return StreamFacts(config={"storage": "file", "num_replicas": 1, **config}, state=StreamState(7, 1, 7))


HEALTHY = Survey(
    asked=True,
    streams={name: stream() for name in STREAMS},
    applications=(Standing(subject="a.v1", stream="A", ours=True),),
    ahead_s=0.0,
)


@pytest.fixture(autouse=True)
def _no_settings_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@dataclass
class Patient:
    """A host with a mesh of its own, all in order, until a test spoils something."""

    directory: Path
    now_ms: int = NOW_MS
    agent: AgentState = WELL
    nats: Survey = HEALTHY
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keystore.init(self.tls_dir, "pmoves-mesh", "alpha", [], NOW_MS)
        keystore.open_identity(self.identity_dir, self.tls_dir, "pmoves-mesh", "alpha", [], NOW_MS)

    @property
    def tls_dir(self) -> Path:
        return self.directory / "tls"

    @property
    def identity_dir(self) -> Path:
        return self.directory / "data" / "identity"

    def examine(self, *names: str) -> list[Finding]:
        config = load({"MESH_HOSTNAME": "alpha", **self.settings}, self.directory)
        host = Host(config=config, now_ms=self.now_ms, agent=self.agent, nats=self.nats)
        return run_checks(host, [CHECKS[name] for name in names])

    def complaint(self, name: str) -> Finding:
        """Returns the only complaint of a check."""
        (finding,) = self.examine(name)
        assert finding.severity != "ok", finding
        assert finding.remedy
        return finding


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


def test_a_host_in_order_has_nothing_to_complain_about(patient: Patient):
    names = [name for name in CHECKS if name not in NO_MESH_BEHIND_IT]
    found = patient.examine(*names)
    assert [finding for finding in found if finding.severity != "ok"] == []
    assert [finding.check for finding in found] == names


# How checks are run


def failing(_: Host) -> Iterator[Complaint]:
    yield Complaint("warning", "seen before it failed", "nothing")
    raise PkiError("no\nluck")


def test_a_check_that_fails_is_an_alarm_and_hides_neither_itself_nor_another(patient: Patient):
    host = Host(config=load({}, patient.directory), now_ms=NOW_MS, agent=WELL)
    checks = [Check("broken", failing, "fine"), Check("other", lambda _: (), "fine")]
    found = run_checks(host, checks)
    assert [(finding.check, finding.severity, finding.what) for finding in found] == [
        ("broken", "alarm", "this check failed: no luck"),
        ("broken", "warning", "seen before it failed"),
        ("other", "ok", "fine"),
    ]


# Certificates and keys


@pytest.mark.parametrize(
    ("days", "severity", "what"),
    [(24, "warning", "ends in 6 days"), (29, "alarm", "ends in 24.0 hours"), (31, "alarm", "ended at")],
)
def test_a_certificate_that_nobody_renewed_is_a_warning_then_an_alarm(
    patient: Patient, days: int, severity: str, what: str
):
    patient.now_ms = NOW_MS + days * DAY_MS
    found = patient.complaint("certificates")
    assert found.severity == severity
    assert f"{patient.identity_dir / 'node.crt'}: the certificate of node alpha {what}" in found.what
    assert found.remedy.startswith("restart the agent")


def test_a_host_without_the_cas_key_is_told_to_join_again(patient: Patient):
    (patient.tls_dir / "ca.key").unlink()
    patient.now_ms = NOW_MS + 29 * DAY_MS
    assert "pmoves-mesh join TOKEN" in patient.complaint("certificates").remedy


def test_a_root_that_ends_is_to_be_rotated_and_files_to_be_made_again(patient: Patient):
    patient.now_ms = NOW_MS + 3649 * DAY_MS
    remedies = {
        Path(finding.what.partition(":")[0]).name: finding.remedy
        for finding in patient.examine("certificates")
    }
    assert "certs rotate" in remedies["ca.crt"]
    assert remedies["server.crt"].startswith("move server.crt and server.key away")


def test_a_certificate_that_has_not_begun_means_that_the_clock_is_wrong(patient: Patient):
    patient.now_ms = NOW_MS - DAY_MS
    found = patient.examine("certificates")
    assert len(found) == 4
    assert {(finding.severity, finding.remedy) for finding in found} == {("alarm", "set this host's clock")}


def test_a_damaged_certificate_is_an_alarm_beside_what_the_others_are(patient: Patient):
    (patient.tls_dir / "client.crt").write_text("nothing")
    found = patient.complaint("certificates")
    assert found.what == f"{patient.tls_dir / 'client.crt'}: holds no certificate in PEM"


def test_a_certificate_of_another_ca_is_an_alarm(patient: Patient):
    other = patient.directory / "other"
    keystore.init(other, "pmoves-mesh", "alpha", [], NOW_MS)
    (patient.tls_dir / "client.crt").write_bytes((other / "client.crt").read_bytes())
    found = patient.complaint("identity")
    assert "does not chain to this mesh's CA" in found.what
    assert patient.complaint("keys").what.endswith("client.key does not belong to client.crt beside it")


def test_the_ca_of_another_mesh_is_an_alarm(patient: Patient):
    patient.settings["PMOVES_MESH_NAME"] = "guest"
    assert "ca.crt: the CA is that of spiffe://pmoves-mesh, not of mesh guest" in {
        finding.what for finding in patient.examine("identity")
    }


def test_the_identity_of_another_node_is_an_alarm(patient: Patient):
    patient.settings["MESH_HOSTNAME"] = "beta"
    found = patient.complaint("identity")
    assert "is the identity of spiffe://pmoves-mesh/node/alpha, and this is node beta" in found.what


def test_a_host_of_no_mesh_yet_is_told_both_ways_into_one(tmp_path: Path, patient: Patient):
    patient.settings["PMOVES_TLS_DIR"] = str(tmp_path / "nothing")
    found = patient.complaint("identity")
    assert found.severity == "warning"
    assert found.remedy == "pmoves-mesh up makes a mesh, pmoves-mesh join TOKEN enters one"


def test_a_host_that_has_no_identity_and_cannot_make_one_is_an_alarm(patient: Patient):
    (patient.tls_dir / "ca.key").unlink()
    (patient.identity_dir / "node.crt").unlink()
    assert patient.complaint("identity").what == "node alpha has no identity, and none can be made here"


@pytest.mark.parametrize(
    "name",
    ["tls/ca.key", "tls/server.key", "tls/authority.db", "data/identity/node.key", "data/agent.secret"],
)
def test_a_private_key_that_others_can_read_is_an_alarm(patient: Patient, name: str):
    path = patient.directory / name
    path.touch()
    path.chmod(0o640)
    found = patient.complaint("permissions")
    assert found.what == f"{path} can be used by others than its owner (mode 0640)"
    assert found.remedy == f"chmod 600 {path}"
    assert [finding.severity for finding in patient.examine("keys")] == ["ok"]


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("SERVICE_REGISTRY_TOKEN=made-up", "alarm"),
        ("NATS_URL=nats://someone:made-up@10.0.0.1", "alarm"),
        ("SERVICE_REGISTRY_TOKEN=", "ok"),
        ("NATS_URL=nats://10.0.0.1", "ok"),
    ],
)
def test_settings_that_others_can_read_are_an_alarm_if_they_hold_a_secret(
    patient: Patient, line: str, severity: str
):
    path = patient.directory / "env.shared"
    path.write_text(f"{line}\n")
    path.chmod(0o644)
    assert [finding.severity for finding in patient.examine("permissions")] == [severity]
    path.chmod(0o600)
    assert [finding.severity for finding in patient.examine("permissions")] == ["ok"]


def test_an_encrypted_key_of_the_ca_without_its_passphrase_is_an_alarm(patient: Patient):
    path = patient.tls_dir / "ca.key"
    write_key(path, read_key(path), "open sesame")
    found = patient.complaint("keys")
    assert found.what == f"{path}: needs its passphrase: set MESH_PASSPHRASE"
    assert found.remedy == "set MESH_PASSPHRASE to it"
    patient.settings["MESH_PASSPHRASE"] = "open sesame"
    assert [finding.severity for finding in patient.examine("keys")] == ["ok"]


def test_a_copy_of_the_cas_key_on_a_host_that_joined_is_an_alarm(patient: Patient):
    patient.settings["PMOVES_CA_URL"] = "https://10.0.0.1:8100"
    found = patient.complaint("CA key")
    assert found.remedy == f"shred -u {patient.tls_dir / 'ca.key'}"
    (patient.tls_dir / "ca.key").unlink()
    assert [finding.severity for finding in patient.examine("CA key")] == ["ok"]


# Files


@pytest.mark.parametrize(("free_mib", "severity"), [(100, "alarm"), (600, "warning"), (2000, "ok")])
def test_a_disk_that_fills_up_is_a_warning_then_an_alarm(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, free_mib: int, severity: str
):
    class Usage:
        free = free_mib << 20

    monkeypatch.setattr("pmoves_mesh.cli.check_files.shutil.disk_usage", lambda _: Usage)
    assert [finding.severity for finding in patient.examine("disk")] == [severity]


def test_a_stale_pid_file_is_a_warning(patient: Patient):
    path = patient.directory / "data" / "agent.pid"
    path.write_text("1\n")
    found = patient.complaint("pid file")
    assert (found.severity, found.remedy) == ("warning", "pmoves-mesh up")


# The agent, NATS and the network


def test_an_agent_that_does_not_answer_is_an_alarm(patient: Patient):
    patient.agent = AgentState(url="http://x", problem="no agent answers at http://x")
    found = patient.complaint("agent")
    assert found == Finding("agent", "alarm", "no agent answers at http://x", "pmoves-mesh up")


def test_an_agent_that_is_not_current_and_what_it_warns_of_are_warnings(patient: Patient):
    patient.agent = AgentState(
        url="http://x", alive=True, registry={"stale_s": 12.3, "warnings": ["cut off from NATS: no route"]}
    )
    assert [(finding.severity, finding.what) for finding in patient.examine("agent")] == [
        ("warning", "the agent's copy of the registry is not current (last: 12 s ago)"),
        ("warning", "cut off from NATS: no route"),
    ]


def test_what_the_agent_warns_of_is_not_said_twice(patient: Patient):
    said = "PMOVES_UNSIGNED=accept: anyone who reaches NATS can announce anything"
    patient.agent = AgentState(url="http://x", alive=True, current=True, registry={"warnings": [said]})
    patient.settings["PMOVES_UNSIGNED"] = "accept"
    found = patient.examine("agent", "signatures")
    assert [(finding.check, finding.severity) for finding in found] == [
        ("signatures", "warning"),
        ("agent", "ok"),
    ]


def test_a_nats_server_that_answers_is_recognised(patient: Patient, nats_server: NatsServer):
    patient.settings["NATS_URL"] = nats_server.url
    assert [finding.severity for finding in patient.examine("NATS")] == ["ok"]


def test_one_nats_server_of_two_suffices(patient: Patient, nats_server: NatsServer, unused_tcp_port: int):
    patient.settings["NATS_URL"] = f"{nats_server.url},nats://127.0.0.1:{unused_tcp_port}"
    assert patient.complaint("NATS").severity == "warning"


def test_no_nats_server_at_all_is_an_alarm(patient: Patient, unused_tcp_port: int):
    patient.settings["NATS_URL"] = f"nats://127.0.0.1:{unused_tcp_port}"
    found = patient.complaint("NATS")
    assert found.severity == "alarm"
    assert found.what == f"nats://127.0.0.1:{unused_tcp_port}: cannot be reached (Connection refused)"


def test_something_else_on_the_port_of_nats_is_an_alarm(patient: Patient):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        patient.settings["NATS_URL"] = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        assert "what answers there is no NATS server" in patient.complaint("NATS").what
        thread.join()


@pytest.mark.parametrize(
    ("check", "settings", "what"),
    [
        ("TLS", {"NATS_URL": "nats://10.0.0.1"}, "crosses the network in the clear"),
        ("signatures", {"PMOVES_UNSIGNED": "accept"}, "anyone who reaches NATS can announce anything"),
        ("HTTP", {"PMOVES_INSECURE_HTTP": "1"}, "other hosts would speak to the HTTP API in the clear"),
        ("HTTP", {"SERVICE_REGISTRY_HOST": "0.0.0.0"}, "only who holds a certificate of the mesh may write"),
    ],
)
def test_a_setting_that_opens_the_mesh_wider_is_a_warning(
    patient: Patient, check: str, settings: dict[str, str], what: str
):
    patient.settings |= settings
    found = patient.complaint(check)
    assert found.severity == "warning"
    assert what in found.what


def test_with_a_token_the_api_may_listen_to_other_hosts(patient: Patient):
    patient.settings |= {"SERVICE_REGISTRY_HOST": "0.0.0.0", "SERVICE_REGISTRY_TOKEN": "made-up"}
    assert [finding.severity for finding in patient.examine("HTTP")] == ["ok"]


# The stream and its buckets


@pytest.mark.parametrize(
    ("ahead_s", "severity", "what"),
    [
        (90.0, "alarm", "90.0 s ahead of"),
        (-90.0, "alarm", "90.0 s behind"),
        (2.5, "warning", "2.5 s ahead of"),
        (0.4, "ok", "agrees"),
    ],
)
def test_the_clock_is_compared_with_the_servers(patient: Patient, ahead_s: float, severity: str, what: str):
    patient.nats = replace(HEALTHY, ahead_s=ahead_s, unsure_s=0.01)
    (found,) = patient.examine("clock")
    assert found.severity == severity
    assert what in found.what


def test_a_slow_answer_does_not_make_the_clock_wrong(patient: Patient):
    patient.nats = replace(HEALTHY, ahead_s=1.5, unsure_s=0.6)
    assert [finding.severity for finding in patient.examine("clock")] == ["ok"]


@pytest.mark.parametrize(
    ("spoilt", "severity", "what"),
    [
        (stream(storage="memory", num_replicas=3), "alarm", "kept in memory: a restart loses it"),
        (stream(persist_mode="async", num_replicas=3), "alarm", "acknowledges before it writes"),
        (stream(), "warning", "kept on 1 of the servers of cluster three"),
        (
            StreamFacts(
                config={"storage": "file", "num_replicas": 3},
                state=StreamState(),
                cluster=ClusterFacts(
                    "a", (ReplicaFacts("b", current=True), ReplicaFacts("c", offline=True, active=9 * 10**9))
                ),
            ),
            "alarm",
            "server c, which keeps a copy of MESH_EVENTS, was not heard of for 9 s",
        ),
        (
            StreamFacts(
                config={"storage": "file", "num_replicas": 3},
                state=StreamState(),
                cluster=ClusterFacts("a", (ReplicaFacts("b", lag=12),)),
            ),
            "warning",
            "server b, which keeps a copy of MESH_EVENTS, is behind",
        ),
    ],
)
def test_a_stream_that_a_loss_of_power_or_of_a_server_takes_is_told(
    patient: Patient, spoilt: StreamFacts, severity: str, what: str
):
    patient.nats = replace(HEALTHY, cluster="three", streams={"MESH_EVENTS": spoilt})
    found = patient.complaint("durability")
    assert (found.severity, what in found.what) == (severity, True)


def test_a_missing_bucket_and_a_refused_login_are_alarms(patient: Patient):
    patient.nats = replace(HEALTHY, streams={**HEALTHY.streams, "KV_MESH_LEASES": None})
    assert patient.complaint("JetStream").what == "stream KV_MESH_LEASES is missing"
    patient.nats = Survey(refused=True, problem="missing right: a login", remedy="check the password")
    assert patient.complaint("JetStream") == Finding(
        "JetStream", "alarm", "missing right: a login", "check the password"
    )


def test_what_nobody_could_be_asked_is_not_called_well(patient: Patient):
    patient.nats = Survey(problem="nats://x cannot be reached", remedy="start it")
    names = ("JetStream", "durability", "clock", "lease", "replica", "events", "agreement")
    found = patient.examine(*names)
    assert {(finding.check, finding.severity) for finding in found} == {(name, "warning") for name in names}


def test_a_stream_of_another_making_is_named_and_one_that_is_missing_is_a_warning(patient: Patient):
    kept = Standing(subject="a.v1", stream="OLD")
    patient.nats = replace(HEALTHY, applications=(kept, Standing(subject="b.v1")))
    assert [(finding.severity, finding.what) for finding in patient.examine("events")] == [
        ("warning", "no stream keeps what is told on b.v1"),
        ("ok", "a.v1 is kept by stream OLD, of another making"),
    ]


# The network


def test_a_node_that_announces_a_loopback_address_misleads_the_others(patient: Patient):
    nodes = [
        {"name": "alpha", "status": "alive", "host": "10.0.0.1", "port": 8100},
        {"name": "beta", "status": "alive", "host": "127.0.0.1", "port": 8100},
        {"name": "gamma", "status": "lost", "host": "127.0.0.1", "port": 8100},
    ]
    patient.agent = replace(WELL, nodes=nodes)
    found = patient.complaint("peers")
    assert found.severity == "alarm"
    assert found.what == "node beta announces 127.0.0.1, which leads to no other host"
    assert "PMOVES_ADVERTISE_HOST" in found.remedy


def test_a_host_that_refuses_is_reached_all_the_same(patient: Patient, unused_tcp_port: int):
    nodes = [{"name": "beta", "status": "alive", "host": "127.0.0.1", "port": unused_tcp_port}]
    patient.agent = replace(WELL, nodes=nodes)
    assert [finding.severity for finding in patient.examine("peers")] == ["ok"]


def test_of_many_complaints_the_last_counts_the_rest(patient: Patient):
    own = {"name": "alpha", "status": "alive", "host": "10.0.0.1", "port": 1}
    others = [
        {"name": f"n{number}", "status": "alive", "host": "127.0.0.1", "port": 1} for number in range(25)
    ]
    patient.agent = replace(WELL, nodes=[own, *others])
    found = patient.examine("peers")
    assert len(found) == 21
    assert found[-1].what == "and 5 more like these"


def test_services_that_never_answer_cost_no_more_than_the_time_there_is(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check_network, "TRY_S", 0.2)
    monkeypatch.setattr(check_network, "ALL_S", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/healthz"
        one = {"name": "web", "node": "beta", "host": "127.0.0.1", "health_url": url, "node_status": "alive"}
        patient.agent = replace(WELL, services=[{**one, "id": str(number)} for number in range(400)])
        begin_s = SystemClock().monotonic_s()
        found = patient.examine("health URLs")
    assert SystemClock().monotonic_s() - begin_s < DEADLINE_S / 3
    assert found[0].what.endswith("of 400 were not tried: 0.5 s were not enough")
    assert found[1].what.endswith("no answer within 0.2 s")
    assert found[-1].what.startswith("and ")
    assert len(found) == check_network.COMPLAINTS_MAX + 1


def test_what_takes_too_long_is_left_behind_and_said(patient: Patient):
    release = threading.Event()

    def endless(_: Host) -> Iterator[Complaint]:
        release.wait(DEADLINE_S)
        yield Complaint("alarm", "too late", "nothing")

    host = Host(config=load({}, patient.directory), now_ms=NOW_MS, agent=WELL)
    try:
        found = run_checks(
            host, [Check("endless", endless, "fine"), Check("quick", lambda _: (), "fine")], 0.05
        )
    finally:
        release.set()
    assert [(finding.check, finding.severity, finding.what) for finding in found] == [
        ("endless", "warning", "not checked: it took longer than 0.05 s"),
        ("quick", "ok", "fine"),
    ]


# The command


@contextmanager
def answering(paths: dict[str, tuple[int, Any]]) -> Iterator[int]:
    """An HTTP server that answers by path; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = paths.get(self.path, (404, {}))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: object) -> None:
            """Says nothing: the test's output is the command's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


Set = Callable[[str, object], None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Set:
    return lambda name, value: monkeypatch.setenv(name, str(value))


def test_with_an_alarm_doctor_exits_with_1_and_shows_every_finding(
    patient: Patient, setting: Set, unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
):
    (patient.tls_dir / "ca.key").chmod(0o644)
    setting("MESH_HOSTNAME", "alpha")
    setting("SERVICE_REGISTRY_PORT", unused_tcp_port)
    setting("NATS_URL", f"nats://127.0.0.1:{unused_tcp_port}")
    assert main(["doctor"]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    said = {line[9:].split("  ")[0]: line.split()[0] for line in lines if line[0] != " "}
    assert {name for name, severity in said.items() if severity == "alarm"} == {
        "permissions",
        "agent",
        "NATS",
    }
    assert said.keys() == {*CHECKS, "settings"}
    for line, after in pairwise(lines):
        if line.split()[0] in {"alarm", "warning"}:
            assert after.lstrip().startswith("-> "), line
    assert printed.err.startswith("pmoves-mesh: 3 alarms; the first: ")
    assert printed.err.count("\n") == 1


def test_something_else_on_the_agents_port_is_an_alarm(patient: Patient, setting: Set):
    with answering({"/healthz": (200, {}), "/readyz": (200, {}), "/api/status": (200, ["nothing"])}) as port:
        setting("SERVICE_REGISTRY_PORT", port)
        state = check_agent.ask_agent(load(os.environ, patient.directory))
    assert state.alive
    assert state.problem == f"what answers at http://127.0.0.1:{port} is not a pmoves-mesh agent"


def test_settings_that_cannot_be_used_are_the_only_finding(setting: Set, capsys: pytest.CaptureFixture[str]):
    setting("SERVICE_REGISTRY_PORT", "eighty")
    assert main(["doctor", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["check"], finding["severity"]) == ("settings", "alarm")
    assert finding["what"].startswith("SERVICE_REGISTRY_PORT='eighty' is not usable")


def test_an_agent_that_picks_its_own_port_cannot_be_asked(setting: Set, capsys: pytest.CaptureFixture[str]):
    setting("SERVICE_REGISTRY_PORT", "0")
    assert main(["doctor", "--json"]) == 1
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert "a command must know the port" in found["agent"]["what"]
