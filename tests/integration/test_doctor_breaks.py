"""Each thing that `doctor` looks at, broken for real, and the line and the remedy that come of it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from doctor_support import Report, doctor
from log_support import DEADLINE_S
from nats_server import NatsServer
from ports import free_port
from secured import SecuredMesh

from pmoves_mesh.cli import check_stream
from pmoves_mesh.cli.doctor import CHECKS
from pmoves_mesh.cli.findings import AgentState, Finding, Host, run_checks
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import LEASES, REGISTRY
from pmoves_mesh.pki.authority import Authority

BY_NAME = {check.name: check for check in CHECKS}
NAMES = {*BY_NAME, "settings"}
DAY_MS = 86_400_000


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


def idle(mesh: Mesh, **settings: str) -> AgentProcess:
    """Returns a host on which no agent runs."""
    return mesh.agent("alpha", SERVICE_REGISTRY_PORT=str(free_port()), **settings)


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Connection]:
    async with Connection(NatsSettings(servers=(server.url,))) as connection:
        await connection.wait_connected(DEADLINE_S)
        yield connection


def on(server: NatsServer, act: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with connected(server) as connection:
            await act(connection)

    asyncio.run(run())


# A mesh in order


def test_on_a_mesh_in_order_doctor_finds_nothing_that_fails(mesh: Mesh):
    alpha, beta = mesh.started("alpha"), mesh.started("beta")
    beta.register("whisper", port=9000)
    mesh.agree()
    report = doctor(alpha)
    assert {line["check"] for line in report.lines} == NAMES
    assert (report.code, report.alarms) == (0, set())
    # The server of these tests is not the agent's own, and tells nobody how it writes.
    warnings = {line["check"] for line in report.lines if line["severity"] == "warning"}
    assert warnings == {"durability"}


def test_people_get_a_line_each_and_the_remedy_under_what_is_not_well(mesh: Mesh):
    done = mesh.started("alpha").run("doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("warning  durability")
    assert lines[1].lstrip().startswith("-> set sync_interval: always")
    assert "ok       lease         held by this node" in lines


def test_without_an_agent_doctor_still_checks_what_it_can(mesh: Mesh):
    mesh.started("beta")
    report = doctor(idle(mesh))
    assert report.alarms == {"agent"}
    report.complaint("agent", "alarm", "no agent answers")
    report.complaint("lease", "warning", "node alpha holds no lease")
    assert [line["severity"] for line in report.of("JetStream")] == ["ok"]
    assert [line["severity"] for line in report.of("clock")] == ["ok"]


def test_a_setting_that_cannot_be_used_is_named_with_what_to_do(mesh: Mesh):
    report = doctor(idle(mesh), PMOVES_LEASE_TTL_S="soon")
    assert report.code == 1
    found = report.complaint("settings", "alarm", "PMOVES_LEASE_TTL_S='soon' is not usable")
    assert found["remedy"].startswith("set PMOVES_LEASE_TTL_S anew")


def test_without_an_agent_the_stream_tells_who_the_others_are(mesh: Mesh):
    mesh.started("beta", PMOVES_ADVERTISE_HOST="beta.invalid")
    report = doctor(idle(mesh))
    report.complaint("peers", "alarm", "node beta cannot be reached at beta.invalid")
    assert [line["severity"] for line in report.of("health URLs")] == ["ok"]


# NATS and JetStream


def test_a_nats_that_is_down_is_one_alarm_and_what_hangs_on_it_is_not_called_well(mesh: Mesh):
    host = idle(mesh)
    mesh.server.kill()
    report = doctor(host)
    report.complaint("NATS", "alarm", "cannot be reached")
    assert report.alarms == {"agent", "NATS"}
    assert {line["check"] for line in report.lines if "not checked" in line["what"]} >= {"clock", "lease"}


def test_a_nats_that_hangs_is_not_waited_for_longer_than_ten_seconds(mesh: Mesh):
    host = idle(mesh)
    mesh.server.pause()
    try:
        report = doctor(host)
    finally:
        mesh.server.resume()
    report.complaint("NATS", "alarm", "cannot be reached")


def test_a_server_without_jetstream_is_an_alarm(tmp_path: Path):
    with Mesh(tmp_path, NatsServer(tmp_path, jetstream=False)) as mesh:
        report = doctor(idle(mesh))
    found = report.complaint("JetStream", "alarm", "JetStream is not enabled")
    assert "jetstream block" in found["remedy"]


def test_a_server_that_holds_no_mesh_lacks_its_stream(mesh: Mesh):
    report = doctor(idle(mesh))
    found = report.complaint("JetStream", "alarm", "stream MESH_EVENTS is missing")
    assert "it makes what is missing" in found["remedy"]


def test_a_login_that_is_refused_is_an_alarm(tmp_path: Path):
    locked = 'authorization { user: mesh, password: "open" }'
    with Mesh(tmp_path, NatsServer(tmp_path, config_extra=locked)) as mesh:
        report = doctor(idle(mesh))
    found = report.complaint("JetStream", "alarm", "missing right: a login")
    assert "check the user, password, token or file" in found["remedy"]


@pytest.mark.parametrize(
    ("written", "severity", "what"),
    [
        ("", "alarm", "acknowledges up to 120 s before it writes"),
        ("sync_interval: always", "ok", "what is acknowledged is on the disk"),
    ],
)
def test_a_server_tells_whether_it_writes_before_it_acknowledges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, severity: str, what: str
):
    port = free_port()
    monkeypatch.setattr(check_stream, "MONITORING_PORTS", (port,))
    config = f'http: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/store", {written} }}'
    with NatsServer(tmp_path, config_extra=config, jetstream=False) as server:
        (found,) = examined("durability", tmp_path, server.url)
    assert (found.severity, what in found.what) == (severity, True)
    assert ("sync_interval: always" in found.remedy) == (severity == "alarm")


def examined(
    name: str, directory: Path, url: str, clock: SystemClock | None = None, **settings: str
) -> list[Finding]:
    """Returns what one check finds in this process, where the time may be another."""
    config = load({"NATS_URL": url, "MESH_HOSTNAME": "main", **settings}, directory)
    clock = clock or SystemClock()
    nats = check_stream.survey_of(config, clock)
    host = Host(config=config, now_ms=clock.now_ms(), agent=AgentState(url=""), nats=nats)
    return run_checks(host, [BY_NAME[name]])


# TLS


@pytest.mark.parametrize(
    ("days_ago", "severity", "what"),
    [
        (0, "ok", "believed"),
        (25, "warning", "ends at"),
        (40, "alarm", "ended at"),
        (-2, "alarm", "begins only"),
    ],
)
def test_a_servers_certificate_is_looked_at_where_it_is_shown(
    tmp_path: Path, days_ago: int, severity: str, what: str
):
    mesh = old_mesh(tmp_path)
    certify(mesh, mesh.authority, days_ago)
    with tls_server(tmp_path, mesh) as server:
        (found,) = examined("TLS", tmp_path, server.url.replace("nats://", "tls://"), **own_files(mesh))
    assert (found.severity, what in found.what) == (severity, True)
    assert bool(found.remedy) == (severity != "ok")


def test_a_server_of_another_ca_is_not_believed(tmp_path: Path):
    mesh = old_mesh(tmp_path)
    certify(mesh, Authority.create("pmoves-mesh", SystemClock().now_ms()), 0)
    with tls_server(tmp_path, mesh) as server:
        (found,) = examined("TLS", tmp_path, server.url.replace("nats://", "tls://"), **own_files(mesh))
    assert found.severity == "alarm"
    assert "its certificate of node main is not believed here" in found.what
    assert "pmoves-mesh join TOKEN" in found.remedy


class Past(SystemClock):
    """The time some days ago."""

    def __init__(self, days: int) -> None:
        self._days = days

    def now_ms(self) -> int:
        return super().now_ms() - self._days * DAY_MS


def old_mesh(directory: Path) -> SecuredMesh:
    """Returns a mesh whose CA was made 100 days ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secured.CLOCK", Past(100))
        return SecuredMesh(directory)


def certify(mesh: SecuredMesh, authority: Authority, days_ago: int) -> None:
    """Gives the server a certificate that was issued so many days ago, for 30."""
    own, mesh.authority = mesh.authority, authority
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secured.CLOCK", Past(days_ago))
        mesh.certify(mesh.owner)
    mesh.authority = own


@contextmanager
def tls_server(directory: Path, mesh: SecuredMesh) -> Iterator[NatsServer]:
    files = f'cert_file: "{mesh.owner.certificate}", key_file: "{mesh.owner.key}"'
    with NatsServer(directory, config_extra=f"tls {{ {files} }}") as server:
        yield server


def own_files(mesh: SecuredMesh) -> dict[str, str]:
    """Returns the settings of a host of that mesh, which has an identity of its own."""
    visitor = mesh.party("visitor")
    identity = mesh.directory / "data" / "identity"
    identity.mkdir(parents=True)
    (identity / "node.crt").write_bytes(visitor.certificate.read_bytes())
    (identity / "node.key").write_bytes(visitor.key.read_bytes())
    (identity / "node.key").chmod(0o600)
    return {"PMOVES_TLS_DIR": str(mesh.directory), "PMOVES_DATA_DIR": str(mesh.directory / "data")}


# Time, lease, lag, agreement


@pytest.mark.parametrize(("ahead_s", "side"), [(90, "ahead of"), (-90, "behind")])
def test_a_clock_that_is_wrong_is_told_by_how_much(mesh: Mesh, ahead_s: int, side: str):
    mesh.started("beta")

    class Wrong(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + ahead_s * 1000

    (found,) = examined("clock", mesh.directory, mesh.server.url, Wrong())
    assert found.severity == "alarm"
    words = found.what.split()
    assert abs(float(words[words.index("s") - 1]) - 90) < 1
    assert side in found.what
    assert "NTP" in found.remedy


def test_a_node_that_lost_its_lease_is_told(mesh: Mesh):
    alpha = mesh.started("alpha")
    reports: list[Report] = []

    def complained() -> bool:
        on(mesh.server, lambda connection: NatsBucket(connection, LEASES).delete("alpha"))
        reports.append(doctor(alpha))
        return "lease" in reports[-1].alarms

    eventually(complained, "the lease is missed")  # the agent takes it again within seconds
    found = reports[-1].complaint("lease", "alarm", "node alpha holds no lease")
    assert "agent.log" in found["remedy"]


def test_a_lease_that_this_host_did_not_write_is_told(mesh: Mesh):
    alpha = mesh.started("alpha")
    reports: list[Report] = []

    async def forge(connection: Connection) -> None:
        await NatsBucket(connection, LEASES).put("alpha", b'{"signer": "nobody"}')

    def complained() -> bool:
        on(mesh.server, forge)
        reports.append(doctor(alpha))
        return "lease" in reports[-1].alarms

    eventually(complained, "the forged lease is seen")
    found = reports[-1].complaint("lease", "alarm", "the lease of node alpha is not this host's")
    assert "MESH_HOSTNAME" in found["remedy"]


def test_an_agent_that_is_behind_the_stream_is_told_by_how_much(mesh: Mesh):
    beta = mesh.started("beta")
    with Relay(mesh.server.port) as relay:
        alpha = mesh.started("alpha", NATS_URL=f"nats://127.0.0.1:{relay.port}")
        relay.cut()
        for number in range(3):
            beta.register(f"whisper-{number}", port=9000)
        report = doctor(alpha, NATS_URL=mesh.server.url)
    found = report.complaint("replica", "alarm", "events behind the stream")
    assert int(found["what"].split()[3]) >= 3
    assert "agent.log" in found["remedy"]
    report.complaint("agent", "warning", "is not current")


def test_a_bucket_that_lacks_a_key_is_told_with_the_key(mesh: Mesh):
    alpha = mesh.started("alpha", PMOVES_RECONCILE_S="86400")
    alpha.register("whisper", port=9000)
    key: list[str] = []

    async def find(connection: Connection) -> None:
        key[:] = await NatsBucket(connection, REGISTRY).keys("service.>")

    eventually(lambda: on(mesh.server, find) or bool(key), "the bucket has it")
    on(mesh.server, lambda connection: NatsBucket(connection, REGISTRY).delete(key[0]))
    found = doctor(alpha).complaint("agreement", "alarm", f"{key[0]} is missing in the bucket")
    assert "pmoves-mesh bucket rebuild" in found["remedy"]


class Relay:
    """What stands between an agent and its NATS, and can be cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def cut(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.cut()
        self._thread.join(DEADLINE_S)


# Ports, peers, health URLs


def test_a_port_that_is_taken_is_told_with_who_took_it(mesh: Mesh):
    host = idle(mesh)
    with socket.create_server(("127.0.0.1", int(host.settings["SERVICE_REGISTRY_PORT"]))):
        report = doctor(host)
    found = report.complaint("ports", "alarm", f"(pid {os.getpid()})")
    assert "set SERVICE_REGISTRY_PORT" in found["what"]


def test_the_port_of_a_hosts_own_nats_that_is_taken_is_told(mesh: Mesh):
    host, port = idle(mesh), free_port()
    with socket.create_server(("127.0.0.1", port)):
        report = doctor(host, NATS_URL="", PMOVES_NATS_PORT=str(port))
    found = report.complaint("ports", "alarm", f"port {port}, where this host's NATS server is to listen")
    assert "PMOVES_NATS_PORT" in found["remedy"]


def test_a_node_whose_address_leads_nowhere_is_told(mesh: Mesh):
    alpha = mesh.started("alpha")
    mesh.started("beta", PMOVES_ADVERTISE_HOST="beta.invalid")  # RFC 6761: there is no such name
    eventually(lambda: alpha.get("/api/nodes/beta").status == 200, "alpha knows beta")
    found = doctor(alpha).complaint("peers", "alarm", "node beta cannot be reached at beta.invalid")
    assert "firewall" in found["remedy"]


def test_a_service_that_is_healthy_at_home_and_not_reached_from_here_is_an_alarm(mesh: Mesh):
    alpha, beta = mesh.started("alpha"), mesh.started("beta")
    url = f"http://127.0.0.1:{free_port()}/healthz"
    beta.register("whisper", port=9000, health_url=url, check={"type": "ttl", "ttl_s": 300})
    answer = beta.request("PUT", "/api/services/whisper/health", json={"status": "healthy"})
    assert answer.status == 200, answer.text
    eventually(lambda: "healthy" in alpha.get("/api/services/whisper").text, "alpha knows it")
    mesh.agree()
    found = doctor(alpha).complaint("health URLs", "alarm", f"{url} of whisper/")
    assert "refused, though its own node finds it healthy" in found["what"]
    assert "listen on an address that other hosts reach" in found["remedy"]


def test_a_service_that_is_ill_at_home_too_is_no_alarm(mesh: Mesh):
    alpha = mesh.started("alpha")
    alpha.register("whisper", port=9000, health_url=f"http://127.0.0.1:{free_port()}/healthz")
    report = doctor(alpha)
    report.complaint("health URLs", "warning", "refused")
    assert report.code == 0


def test_an_agent_that_hangs_is_told_and_not_waited_for(mesh: Mesh):
    alpha = mesh.started("alpha")
    alpha.pause()
    try:
        report = doctor(alpha)
    finally:
        alpha.resume()
    assert "agent" in report.alarms
