"""Letting members in and putting them out while the server runs; its certificate, its place, its streams."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
import pytest
from log_support import DEADLINE_S, connected, event, eventually, in_chunks, read_until
from nats_server import NatsServer, wait_for_greeting
from ports import free_port
from secured import CLOCK, SecuredMesh, running

from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing, StartError
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import LEASES, ensure
from pmoves_mesh.pki.files import read_key
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.child import command_of
from pmoves_mesh.server.door import Door
from pmoves_mesh.server.process import EmbeddedServer
from pmoves_mesh.server.settings import ServerFiles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mesh(tmp_path: Path) -> SecuredMesh:
    return SecuredMesh(tmp_path)


@pytest.fixture
def port() -> int:
    return free_port()


async def refused(settings: NatsSettings) -> LogError:
    """Returns why a login is not taken."""
    async with Connection(settings) as connection:
        with pytest.raises(LogError) as caught:
            await connection.wait_connected(0.5)
    return caught.value


async def test_members_come_and_go_without_dropping_the_others(mesh: SecuredMesh, port: int) -> None:
    jetson, whisper = mesh.party("jetson"), mesh.party("whisper", "service")
    server = mesh.server(port, mesh.access())
    async with running(server), AsyncExitStack() as stack:
        staying = [
            await stack.enter_async_context(mesh.connected(party, port))
            for party in (mesh.owner, jetson, whisper)
        ]
        ids = [connection.session().client.client_id for connection in staying]
        await ensure(staying[0], mesh.mesh, mesh.fingerprint)
        process = server.pid
        for name in ("orin", "vps"):
            newcomer = mesh.party(name)
            await server.admit(mesh.access())
            async with mesh.connected(newcomer, port) as connection:
                assert await NatsEventLog(connection).bounds()
        del mesh.parties[newcomer.id]
        await server.admit(mesh.access())
        for connection in staying:
            await connection.session().client.flush()
        assert [connection.generation for connection in staying] == [1, 1, 1]
        assert [connection.session().client.client_id for connection in staying] == ids
        assert server.pid == process


async def test_what_members_do_meanwhile_is_not_lost(mesh: SecuredMesh, port: int) -> None:
    """Publishing and following go on through twenty reloads, without one event missing or doubled."""
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with (
        running(server),
        mesh.connected(mesh.owner, port) as owner,
        mesh.connected(jetson, port) as node,
    ):
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        done = asyncio.Event()

        async def come_and_go() -> None:
            for number in range(20):
                mesh.party(f"n{number}")
                await server.admit(mesh.access())
            done.set()

        async def publish() -> int:
            log, number = NatsEventLog(node), 0
            while not done.is_set():
                with suppress(LogUnavailable):  # an answer that a reload cost: the same event again
                    await log.publish(event(number))
                    number += 1
            return number

        async with asyncio.TaskGroup() as group:
            group.create_task(come_and_go())
            publishing = group.create_task(publish())
        count = publishing.result()
        assert count > 20
        tail = await read_until(NatsEventLog(node).tail(0), count)
        assert [message.sealed.payload for message in tail] == [event(n).payload for n in range(count)]
        assert (owner.generation, node.generation) == (1, 1)


async def test_a_tail_goes_on_through_a_reload(mesh: SecuredMesh, port: int) -> None:
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with (
        running(server),
        mesh.connected(mesh.owner, port) as owner,
        mesh.connected(jetson, port) as node,
    ):
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        following = asyncio.create_task(read_until(NatsEventLog(node).tail(0), 60))
        for number in range(3):
            await in_chunks(
                [
                    lambda n=n: NatsEventLog(owner).publish(event(n))
                    for n in range(number * 20, number * 20 + 20)
                ]
            )
            mesh.party(f"n{number}")
            await server.admit(mesh.access())
        assert len(await following) == 60
        assert node.generation == 1


async def test_a_revoked_node_is_put_out_within_a_second_and_not_let_in_again(
    mesh: SecuredMesh, port: int
) -> None:
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with running(server), mesh.connected(mesh.owner, port) as owner:
        async with mesh.connected(jetson, port) as connection:
            session = connection.session()
            begin_s = CLOCK.monotonic_s()
            await server.admit(mesh.access(mesh.owner))
            async with asyncio.timeout(1):
                await session.lost.wait()
            assert CLOCK.monotonic_s() - begin_s < 1
        assert isinstance(await refused(mesh.settings(jetson, port)), LogError)
        mesh.certify(jetson)
        assert isinstance(await refused(mesh.settings(jetson, port)), LogError)
        assert owner.generation == 1


async def test_a_revoked_key_does_not_come_back_with_a_new_certificate_and_a_new_key_does(
    mesh: SecuredMesh, port: int
) -> None:
    jetson = mesh.party("jetson")
    stolen = read_key(jetson.key)
    server = mesh.server(port, mesh.access())
    async with running(server):
        async with mesh.connected(jetson, port) as connection:
            session = connection.session()
            jetson.certificates.clear()
            mesh.certify(jetson)
            await server.admit(mesh.access())
            async with asyncio.timeout(1):
                await session.lost.wait()
            await eventually(lambda: _is(connection.generation == 2))
        good = [jetson.certificate.read_bytes(), jetson.key.read_bytes()]
        mesh.certify(jetson, key=stolen)
        assert isinstance(await refused(mesh.settings(jetson, port)), LogError)
        jetson.certificate.write_bytes(good[0])
        jetson.key.write_bytes(good[1])
        async with mesh.connected(jetson, port):
            pass


async def _is(value: bool) -> bool:
    return value


async def test_a_member_whose_certificate_is_renewed_keeps_its_connection(
    mesh: SecuredMesh, port: int
) -> None:
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with running(server), mesh.connected(jetson, port) as connection:
        mesh.certify(jetson, key=read_key(jetson.key))
        await server.admit(mesh.access())
        await connection.session().client.flush()
        assert connection.generation == 1


async def test_who_has_no_certificate_or_a_strangers_does_not_get_in(
    mesh: SecuredMesh, port: int, tmp_path: Path
) -> None:
    stranger = SecuredMesh(tmp_path / "elsewhere", mesh.mesh)
    async with running(mesh.server(port, mesh.access())):
        bare = mesh.settings(mesh.owner, port, tls_cert=None, tls_key=None)
        assert isinstance(await refused(bare), LogError)
        forged = {"tls_cert": stranger.owner.certificate, "tls_key": stranger.owner.key}
        assert isinstance(await refused(mesh.settings(mesh.owner, port, **forged)), LogError)
        plain = NatsSettings(servers=(f"nats://127.0.0.1:{port}",), user=mesh.owner.id, password="x")
        assert isinstance(await refused(plain), LogError)


async def test_the_servers_certificate_is_renewed_without_a_restart_or_a_dropped_connection(
    mesh: SecuredMesh, port: int
) -> None:
    server = mesh.server(port, mesh.access())
    async with running(server), mesh.connected(mesh.owner, port) as connection:
        assert serial_shown(connection) == mesh.owner.certificates[0].serial_number
        process = server.pid
        mesh.certify(mesh.owner, key=read_key(mesh.owner.key))
        await server.reload()
        async with mesh.connected(mesh.owner, port) as second:
            assert serial_shown(second) == mesh.owner.certificates[1].serial_number
        await connection.session().client.flush()
        assert (connection.generation, server.pid) == (1, process)


def serial_shown(connection: Connection) -> int:
    """Returns the serial number of the certificate that the server of a session has shown."""
    transport = connection.session().client._transport
    assert transport is not None
    secured = transport._io_writer.get_extra_info("ssl_object")
    return int(secured.getpeercert()["serialNumber"], 16)


async def test_a_configuration_that_the_server_does_not_take_is_an_error_and_changes_nothing(
    mesh: SecuredMesh, port: int
) -> None:
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access(mesh.owner))
    async with running(server), mesh.connected(mesh.owner, port) as connection:
        good = mesh.owner.certificate.read_text()
        mesh.owner.certificate.write_text("damaged")
        with pytest.raises(StartError, match=r"does not take its configuration") as caught:
            await server.admit(mesh.access())
        assert "\n" not in str(caught.value)
        mesh.owner.certificate.write_text(good)
        assert isinstance(await refused(mesh.settings(jetson, port)), LogError)
        await server.admit(mesh.access())
        async with mesh.connected(jetson, port):
            await connection.session().client.flush()
        assert connection.generation == 1


async def test_the_same_members_again_are_no_reason_to_reload(mesh: SecuredMesh, port: int) -> None:
    mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with running(server):
        log = mesh.directory / "data" / "nats" / "nats-server.log"
        members = tuple(reversed(mesh.parties.values()))
        await server.admit(mesh.access(*members))
        assert "Reloaded server configuration" not in log.read_text()


async def test_what_only_the_server_and_its_agents_may_read_is_theirs_alone(
    mesh: SecuredMesh, port: int
) -> None:
    async with running(mesh.server(port, mesh.access())):
        nats = mesh.directory / "data" / "nats"
        assert nats.stat().st_mode & 0o077 == 0
        for name in ("nats-server.conf", "access/pmoves-mesh.json", "listener.json", "anchors.pem"):
            assert (nats / name).stat().st_mode & 0o077 == 0, name


async def test_members_of_another_mesh_are_not_taken_for_the_servers_own(
    mesh: SecuredMesh, port: int, tmp_path: Path
) -> None:
    other = SecuredMesh(tmp_path, "other")
    with pytest.raises(StartError, match=r"no members of mesh other"):
        await mesh.server(port, mesh.access()).admit(other.access())


async def test_a_server_of_which_nobody_is_a_member_does_not_start(mesh: SecuredMesh, port: int) -> None:
    with pytest.raises(StartError, match=r"who may log in .* is not known"):
        await mesh.server(port).start()


async def test_a_host_that_has_not_that_address_says_so(mesh: SecuredMesh, port: int) -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.7 is no address of this host.*PMOVES_NATS_HOST"):
        await mesh.server(port, mesh.access(), host="192.0.2.7").start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_a_server_on_every_address_is_reached_on_loopback(
    mesh: SecuredMesh, port: int, host: str
) -> None:
    server = mesh.server(port, mesh.access(), host=host)
    async with running(server):
        assert server.url.startswith("tls://")
        async with Connection(mesh.settings(mesh.owner, port, servers=(server.url,))) as connection:
            await connection.wait_connected(DEADLINE_S)


# Over restarts


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
import msgspec
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.process import EmbeddedServer, Secured

async def main():
    secured = msgspec.json.decode(sys.argv[3], type=Secured, dec_hook=lambda kind, value: kind(value))
    server = EmbeddedServer(locate(os.environ), Path(sys.argv[1]), int(sys.argv[2]), SystemClock(), secured)
    await server.start()
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def crash_an_agent(mesh: SecuredMesh, port: int) -> int:
    """Returns the process id of the server that a killed agent left."""
    secured = mesh.server(port, mesh.access())._secured
    described = msgspec.json.encode(secured, enc_hook=str).decode()
    command = [sys.executable, "-c", CRASH, mesh.directory / "data", str(port), described]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL
    return int(ran.stdout.split()[-1])


async def test_a_server_that_a_crash_left_is_adopted_and_told_who_may_log_in_now(
    mesh: SecuredMesh, port: int
) -> None:
    left = crash_an_agent(mesh, port)
    jetson = mesh.party("jetson")
    mesh.certify(mesh.owner, key=read_key(mesh.owner.key))
    async with (
        mesh.connected(mesh.owner, port) as connection,
        running(mesh.server(port, mesh.access())) as server,
    ):
        assert server.pid == left
        async with mesh.connected(jetson, port) as second:
            assert serial_shown(second) == mesh.owner.certificates[1].serial_number
        await connection.session().client.flush()
        assert connection.generation == 1
    assert not command_of(left)


async def test_a_server_left_in_another_place_is_started_anew(mesh: SecuredMesh, port: int) -> None:
    left = crash_an_agent(mesh, port)
    second_port = free_port()
    async with running(mesh.server(second_port, mesh.access())) as server:
        assert server.pid != left
        assert not command_of(left)
        async with mesh.connected(mesh.owner, second_port):
            pass


async def test_a_server_started_without_word_of_its_members_lets_in_those_of_its_last_run(
    mesh: SecuredMesh, port: int
) -> None:
    async with running(mesh.server(port, mesh.access())):
        pass
    async with running(mesh.server(port)), mesh.connected(mesh.owner, port):
        pass


async def test_the_stream_outlives_the_step_beyond_loopback_and_back(mesh: SecuredMesh, port: int) -> None:
    plain = EmbeddedServer(locate(os.environ), mesh.directory / "data", port, CLOCK)
    async with running(plain), connected(NatsSettings(servers=(plain.url,))) as connection:
        first = await ensure(connection, mesh.mesh, mesh.fingerprint)
        assert await NatsEventLog(connection).publish(event(1)) == 1
    async with running(mesh.server(port, mesh.access())), mesh.connected(mesh.owner, port) as connection:
        found = await ensure(connection, mesh.mesh, mesh.fingerprint)
        assert (found.last, found.stream_id) == (1, first.stream_id)
        assert await NatsEventLog(connection).publish(event(2)) == 2
    plain = EmbeddedServer(locate(os.environ), mesh.directory / "data", port, CLOCK)
    async with running(plain), connected(NatsSettings(servers=(plain.url,))) as connection:
        assert (await ensure(connection, mesh.mesh, mesh.fingerprint)).last == 2


async def test_a_killed_server_comes_back_with_its_members(mesh: SecuredMesh, port: int) -> None:
    server = mesh.server(port, mesh.access())
    async with running(server), mesh.connected(mesh.owner, port) as connection:
        await ensure(connection, mesh.mesh, mesh.fingerprint)
        await NatsEventLog(connection).publish(event(1))
        supervisor = asyncio.create_task(server.supervise())
        try:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await eventually(lambda: _is(connection.generation == 2))
            assert (await NatsEventLog(connection).bounds()).last == 1
        finally:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor


async def test_a_node_joins_a_server_that_lost_the_leases_and_the_owner_makes_them_anew(
    mesh: SecuredMesh, port: int
) -> None:
    jetson = mesh.party("jetson")
    server = mesh.server(port, mesh.access())
    async with running(server), mesh.connected(mesh.owner, port) as owner:
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        await server.stop()
        await server.start()
        async with mesh.connected(jetson, port) as node:
            leases = NatsBucket(node, LEASES)
            assert await ensure(node, mesh.mesh, mesh.fingerprint)
            with pytest.raises(LogUnavailable):
                await leases.put("jetson", b"1", expected=0)
            await eventually(lambda: _is(owner.generation == 2 and owner.connected))
            await ensure(owner, mesh.mesh, mesh.fingerprint)
            assert await leases.put("jetson", b"1", expected=0, ttl_s=10)


async def test_agents_that_change_a_server_at_once_take_turns(mesh: SecuredMesh, port: int) -> None:
    server = mesh.server(port, mesh.access())
    async with running(server):
        doors = [Door(ServerFiles(mesh.directory / "data" / "nats"), CLOCK) for _ in range(4)]
        newcomers = [mesh.party(f"n{number}") for number in range(4)]
        await asyncio.gather(*(door.admit(mesh.access()) for door in doors), server.reload())
        for newcomer in newcomers:
            async with mesh.connected(newcomer, port):
                pass


# Which server a client believes


@pytest.mark.parametrize(
    ("kind", "name", "is_believed"),
    [
        ("node", "vps", True),
        ("service", "nats", True),
        ("service", "whisper", False),
        ("operator", "root", False),
    ],
)
async def test_a_client_believes_a_server_by_its_spiffe_id_whatever_its_address(
    mesh: SecuredMesh, tmp_path: Path, kind: str, name: str, is_believed: bool
) -> None:
    shown = mesh.party(name, kind)  # type: ignore[arg-type]
    extra = f'tls {{ cert_file: "{shown.certificate}", key_file: "{shown.key}" }}'
    with NatsServer(tmp_path, config_extra=extra) as server:
        settings = mesh.settings(
            mesh.owner,
            server.port,
            servers=(f"tls://localhost:{server.port}",),
            api_prefix="$JS.API.",
        )
        if is_believed:
            async with connected(settings) as connection:
                assert await ensure(connection, mesh.mesh, mesh.fingerprint)
        else:
            problem = await refused(settings)
            assert isinstance(problem, RightMissing)
            assert f"spiffe://pmoves-mesh/{kind}/{name} is not one of" in str(problem)


async def test_a_client_does_not_believe_a_server_of_another_mesh_or_ca(
    mesh: SecuredMesh, tmp_path: Path
) -> None:
    for other in (SecuredMesh(tmp_path / "a", "guest"), SecuredMesh(tmp_path / "b", mesh.mesh)):
        extra = f'tls {{ cert_file: "{other.owner.certificate}", key_file: "{other.owner.key}" }}'
        with NatsServer(tmp_path / other.mesh / "server", config_extra=extra) as server:
            problem = await refused(mesh.settings(mesh.owner, server.port))
            assert "TLS connection" in str(problem)


async def test_a_server_of_a_known_ca_but_another_mesh_is_not_believed(
    mesh: SecuredMesh, tmp_path: Path
) -> None:
    shown = mesh.party("vps")
    extra = f'tls {{ cert_file: "{shown.certificate}", key_file: "{shown.key}" }}'
    with NatsServer(tmp_path, config_extra=extra) as server:
        problem = await refused(mesh.settings(mesh.owner, server.port, tls_server="guest"))
    assert "spiffe://pmoves-mesh/node/vps is not one of spiffe://guest/node/*" in str(problem)


async def test_roots_that_are_missing_are_told_in_one_line(mesh: SecuredMesh, port: int) -> None:
    for roots in (None, mesh.directory / "absent.crt"):
        problem = await refused(mesh.settings(mesh.owner, port, tls_ca=roots))
        assert isinstance(problem, RightMissing)
        assert "usable TLS files" in str(problem)


# The configuration that is shipped


async def test_a_server_takes_the_shipped_configuration_and_its_members_work(
    mesh: SecuredMesh, port: int, tmp_path: Path
) -> None:
    """As `deploy/nats/README.md` says: the example, with the files and keys of a mesh in their places."""
    parties = {
        "a": mesh.owner,
        "b": mesh.party("jetson"),
        "c": mesh.party("main", "operator"),
        "d": mesh.party("whisper", "service"),
    }
    shown = mesh.party("nats", "service")
    text = (ROOT / "deploy" / "nats" / "nats-server.conf").read_text()
    for placeholder, party in parties.items():
        text = text.replace(placeholder * 64, party.member().pins[0])
    text = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("/var/lib/nats", str(tmp_path))
    text = text.replace("/etc/nats/server.crt", str(shown.certificate))
    text = text.replace("/etc/nats/server.key", str(shown.key))
    (tmp_path / "nats-server.conf").write_text(text)
    (tmp_path / "anchors.pem").write_text(mesh.roots.read_text())
    with subprocess.Popen([locate(os.environ).path, "-c", tmp_path / "nats-server.conf"]) as process:
        try:
            wait_for_greeting(port)
            async with mesh.connected(mesh.owner, port) as owner, mesh.connected(parties["b"], port) as node:
                await ensure(owner, mesh.mesh, mesh.fingerprint)
                assert await ensure(node, mesh.mesh, mesh.fingerprint)
                assert await NatsEventLog(node).publish(event(1)) == 1
            for name in ("c", "d"):
                async with mesh.connected(parties[name], port):
                    pass
            assert isinstance(await refused(mesh.settings(mesh.party("orin"), port)), LogError)
        finally:
            process.terminate()
