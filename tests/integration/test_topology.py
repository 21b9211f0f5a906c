"""Making the mesh's stream, buckets and consumer; logging in; and what is said when a right is missing."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from log_support import CA, DEADLINE_S, MESH, connected, event, eventually
from nats_server import NatsServer

from pmoves_mesh.errors import (
    ForeignStream,
    LogError,
    LogUnavailable,
    RightMissing,
    ServerTooOld,
    StreamInTheWay,
)
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Done, StreamInfo, call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.consumer import push_consumer
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import EVENTS, LEASES, StreamIdentity, ensure, peek

SECRET = "s3cr3t-Pa55/w@rd"


@pytest.fixture(autouse=True)
def no_secret_is_shown(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing in this file may print the secret or a traceback, whatever happens."""
    with caplog.at_level(logging.DEBUG):
        yield
    output = "".join(capfd.readouterr()) + caplog.text
    for shown in (SECRET, "s3cr3t", "Pa55", "Traceback"):
        assert shown not in output


async def stream(connection: Connection, name: str = EVENTS) -> StreamInfo:
    return await call(connection.session(), f"STREAM.INFO.{name}", StreamInfo)


async def make_stream(connection: Connection, name: str, *subjects: str) -> None:
    await call(
        connection.session(), f"STREAM.CREATE.{name}", Done, {"name": name, "subjects": list(subjects)}
    )


@pytest.fixture
async def bare(nats_server: NatsServer) -> AsyncIterator[Connection]:
    """A connection to a server that holds nothing yet."""
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        yield connection


@pytest.mark.parametrize("nats_server", ["wheel", "container"], indirect=True)
async def test_the_stream_is_made_as_the_design_says(nats_server: NatsServer, bare: Connection) -> None:
    assert bare.server_url == nats_server.url
    assert await peek(bare) is None
    await ensure(bare, MESH, CA)
    config = (await stream(bare)).config
    assert config["subjects"] == ["mesh.node.*.v1", "mesh.trust.*.v1", "service.registry.*"]
    assert config["storage"] == "file"
    assert config["discard"] == "old"
    assert all(config[name] for name in ("deny_delete", "deny_purge", "allow_msg_ttl", "allow_direct"))
    assert config["max_age"] == 30 * 86400 * 10**9
    assert config["max_bytes"] == 2**30
    assert config["duplicate_window"] == 120 * 10**9
    assert (config["metadata"]["mesh"], config["metadata"]["ca"]) == (MESH, CA)
    registry = (await stream(bare, "KV_MESH_REGISTRY")).config
    assert registry["max_msgs_per_subject"] == 1
    assert registry["allow_msg_ttl"]
    assert registry["allow_direct"]
    assert (await stream(bare, "KV_MESH_IDENTITIES")).config["storage"] == "file"
    leases = (await stream(bare, "KV_MESH_LEASES")).config
    assert leases["storage"] == "memory"
    assert leases["allow_msg_ttl"]
    assert leases["subject_delete_marker_ttl"] == 600 * 10**9
    assert await NatsWorkQueue(bare).floor() == 0
    assert await peek(bare) == StreamIdentity(MESH, CA)


async def test_many_agents_may_start_at_once(nats_server: NatsServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        settings = NatsSettings(servers=(nats_server.url,))
        connections = [await stack.enter_async_context(connected(settings)) for _ in range(6)]
        bounds = await asyncio.gather(*(ensure(connection, MESH, CA) for connection in connections))
    assert len({one.stream_id for one in bounds}) == 1


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    updates = "$JS.API.STREAM.UPDATE.>"
    with NatsServer(tmp_path) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            first = await ensure(connection, MESH, CA)
            async with await connection.session().subscribe(updates) as inbox:
                assert await ensure(connection, MESH, CA) == first
                await connection.publish_core("$JS.API.STREAM.UPDATE.none", b"")
                seen = await inbox.take(10, DEADLINE_S)
    assert [message.subject for message in seen] == ["$JS.API.STREAM.UPDATE.none"]


async def test_a_second_start_keeps_what_is_there_and_takes_new_limits(connection: Connection) -> None:
    await NatsEventLog(connection).publish(event(1))
    before = await stream(connection)
    bounds = await ensure(connection, MESH, CA, max_age_s=3600, max_bytes=2**20)
    after = await stream(connection)
    assert (bounds.first, bounds.last, bounds.stream_id) == (1, 1, before.created)
    assert (after.config["max_age"], after.config["max_bytes"]) == (3600 * 10**9, 2**20)
    assert after.config["deny_delete"]


@pytest.mark.parametrize(
    ("mesh", "ca", "said"),
    [("other-mesh", CA, "already holds mesh 'test-mesh'"), (MESH, "be" * 32, "is under the CA cacacaca")],
)
async def test_a_stream_of_another_mesh_or_another_ca_is_left_alone(
    connection: Connection, mesh: str, ca: str, said: str
) -> None:
    before = (await stream(connection)).config
    with pytest.raises(ForeignStream, match=said):
        await ensure(connection, mesh, ca)
    assert (await stream(connection)).config == before


async def test_a_stream_that_was_made_under_another_root_of_the_mesh_is_ours_and_told_the_new_one(
    connection: Connection,
) -> None:
    fresh = "be" * 32
    with pytest.raises(ForeignStream):
        await ensure(connection, MESH, (fresh,))
    await ensure(connection, MESH, (fresh, CA))
    for name in (EVENTS, "KV_MESH_REGISTRY", "KV_MESH_IDENTITIES", "KV_MESH_LEASES"):
        assert (await stream(connection, name)).config["metadata"]["ca"] == fresh
    await ensure(connection, MESH, fresh)


async def test_the_leases_are_in_memory_and_the_end_of_each_is_told(connection: Connection) -> None:
    config = (await stream(connection, "KV_MESH_LEASES")).config
    assert (config["storage"], config["max_msgs_per_subject"]) == ("memory", 1)
    assert config["max_msg_size"] == 16 * 1024
    async with await connection.session().subscribe("$KV.MESH_LEASES.jetson") as inbox:
        await NatsBucket(connection, LEASES).put("jetson", b"alive", ttl_s=1)
        (written,) = await inbox.take(1, DEADLINE_S)
        assert written.data == b"alive"

        async def is_gone() -> bool:
            return await NatsBucket(connection, LEASES).get("jetson") is None

        await eventually(is_gone)
    last = {"deliver_policy": "last_per_subject", "filter_subject": "$KV.MESH_LEASES.>"}
    async with push_consumer(connection.session(), "KV_MESH_LEASES", last) as consumer:
        ((marker, _),) = await consumer.take(10)
    assert (marker.headers or {})["Nats-Marker-Reason"] == "MaxAge"


async def test_nobody_can_empty_the_registry_by_a_header(connection: Connection) -> None:
    for bucket in ("MESH_REGISTRY", "MESH_IDENTITIES"):
        await NatsBucket(connection, bucket).put("kept", b"1")
        with pytest.raises(LogError, match="rollup not permitted"):
            await api.publish(connection.session(), f"$KV.{bucket}.one", b"", {"Nats-Rollup": "all"})
        assert await NatsBucket(connection, bucket).get("kept") is not None


async def test_a_stream_of_the_name_that_no_mesh_made_is_left_alone(bare: Connection) -> None:
    await make_stream(bare, EVENTS, "something.else")
    with pytest.raises(ForeignStream, match="was not made by a pmoves-mesh"):
        await ensure(bare, MESH, CA)
    with pytest.raises(ForeignStream):
        await peek(bare)
    assert (await stream(bare)).config["subjects"] == ["something.else"]


async def test_a_stream_in_the_way_is_named(bare: Connection) -> None:
    await make_stream(bare, "gpu", "mesh.gpu.>")
    await make_stream(bare, "service_registry", "service.registry.>")
    with pytest.raises(StreamInTheWay) as caught:
        await ensure(bare, MESH, CA)
    assert caught.value.stream == "service_registry"
    assert caught.value.subjects == ("service.registry.>",)
    assert "pmoves-mesh migrate service_registry" in str(caught.value)


async def test_a_server_without_jetstream_is_told_from_one_with_it(tmp_path: Path) -> None:
    with NatsServer(tmp_path, jetstream=False) as server:
        async with connected(NatsSettings(servers=(server.url,))) as connection:
            for asking in (ensure(connection, MESH, CA), peek(connection)):
                with pytest.raises(RightMissing, match=r"JetStream is not enabled on nats://127\.0\.0\.1"):
                    await asking


ACCOUNTS = """
accounts {
  with { jetstream: enabled, users: [ { user: a, password: "x" } ] }
  without { users: [ { user: b, password: "x" } ] }
}
"""


async def test_an_account_without_jetstream_is_told_so(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config_extra=ACCOUNTS) as server:
        settings = NatsSettings(servers=(server.url,), user="b", password="x")
        async with connected(settings) as connection:
            with pytest.raises(RightMissing, match="JetStream is not enabled for this account"):
                await ensure(connection, MESH, CA)


async def test_a_server_that_is_too_old_is_told_so(bare: Connection) -> None:
    bare.session().info["version"] = "2.10.29"
    with pytest.raises(ServerTooOld, match=r"nats-server 2\.10\.29 is too old: 2\.11"):
        await ensure(bare, MESH, CA)


def one_user(permissions: str = "") -> str:
    return f'authorization {{ users: [ {{ user: agent, password: "{SECRET}" {permissions} }} ] }}'


def denied(side: str, subject: str) -> str:
    return one_user(f', permissions: {{ {side}: {{ deny: ["{subject}"] }} }}')


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.INFO.MESH_EVENTS",
        "$JS.API.STREAM.CREATE.MESH_EVENTS",
        "$JS.API.STREAM.CREATE.KV_MESH_REGISTRY",
        "$JS.API.CONSUMER.CREATE.MESH_EVENTS.materialiser",
    ],
)
async def test_a_user_that_lacks_a_permission_reads_which_one(tmp_path: Path, subject: str) -> None:
    with NatsServer(tmp_path, config_extra=denied("publish", subject)) as server:
        settings = NatsSettings(servers=(server.url,), user="agent", password=SECRET)
        async with connected(settings) as connection:
            with pytest.raises(RightMissing) as caught:
                await ensure(connection, MESH, CA)
            assert caught.value.right == f"publish on {subject}"
            assert connection.connected


async def test_a_user_that_may_not_publish_fetch_or_follow_reads_so_too(tmp_path: Path) -> None:
    forbidden = (
        '"service.registry.updated", "$JS.API.CONSUMER.MSG.NEXT.>", "$JS.API.CONSUMER.CREATE.MESH_EVENTS.*"'
    )
    settings = NatsSettings(servers=(), user="agent", password=SECRET)
    with NatsServer(tmp_path, config_extra=one_user()) as server:
        settings = replace(settings, servers=(server.url,))
        async with connected(settings) as connection:
            await ensure(connection, MESH, CA)
        server.stop()
        server.configure(one_user(f", permissions: {{ publish: {{ deny: [{forbidden}] }} }}"))
        server.start()
        async with connected(settings) as connection:
            with pytest.raises(RightMissing, match=r"publish on service\.registry\.updated"):
                await NatsEventLog(connection).publish(event(1))
            with pytest.raises(RightMissing, match=r"CONSUMER\.MSG\.NEXT"):
                await NatsWorkQueue(connection).fetch(1, 5)
            with pytest.raises(RightMissing, match=r"CONSUMER\.CREATE\.MESH_EVENTS"):
                await anext(NatsEventLog(connection).tail(0))


async def test_a_user_that_may_not_receive_answers_or_messages_reads_so(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config_extra=denied("subscribe", "_INBOX.>")) as server:
        settings = NatsSettings(servers=(server.url,), user="agent", password=SECRET)
        async with connected(settings) as connection:
            with pytest.raises(RightMissing, match=r"subscribe to _INBOX\.>"):
                await ensure(connection, MESH, CA)
    with NatsServer(tmp_path / "second", config_extra=denied("subscribe", "services.>")) as server:
        settings = NatsSettings(servers=(server.url,), user="agent", password=SECRET)
        async with connected(settings) as connection:
            with pytest.raises(RightMissing, match=r"subscribe to services\.announce\.v1"):
                await anext(connection.subscribe_core("services.announce.v1"))


async def test_limits_that_a_user_may_not_change_stay_as_they_are(tmp_path: Path) -> None:
    extra = denied("publish", "$JS.API.STREAM.UPDATE.>")
    with NatsServer(tmp_path, config_extra=extra) as server:
        settings = NatsSettings(servers=(server.url,), user="agent", password=SECRET)
        async with connected(settings) as connection:
            await ensure(connection, MESH, CA)
            await ensure(connection, MESH, CA, max_bytes=2**20)
            assert (await stream(connection)).config["max_bytes"] == 2**30


async def refused(settings: NatsSettings) -> LogError:
    """Returns why there is no connection, which must be one line without the secret."""
    async with Connection(settings) as connection:
        with pytest.raises(LogError) as caught:
            await connection.wait_connected(1.0)
        assert str(connection.problem) == str(caught.value)
        for shown in (str(caught.value), repr(caught.value), repr(settings), connection.server_url):
            assert "s3cr3t" not in shown
            assert "\n" not in shown
    return caught.value


async def test_a_login_works_with_user_and_password_in_the_settings_or_the_url(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config_extra=one_user()) as server:
        quoted = SECRET.replace("/", "%2F").replace("@", "%40")
        url = server.url.replace("nats://", f"nats://agent:{quoted}@")
        for settings in (
            NatsSettings(servers=(server.url,), user="agent", password=SECRET),
            NatsSettings(servers=(url,)),
        ):
            async with connected(settings) as connection:
                assert await peek(connection) is None
                assert connection.server_url == server.url
        wrong = NatsSettings(servers=(url.replace("agent", "nobody"),))
        problem = await refused(wrong)
        assert isinstance(problem, RightMissing)
        assert "a login that nats://127.0.0.1" in str(problem)


async def test_a_login_works_with_a_token(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config_extra=f'authorization {{ token: "{SECRET}" }}') as server:
        async with connected(NatsSettings(servers=(server.url,), token=SECRET)) as connection:
            assert await peek(connection) is None
        assert isinstance(await refused(NatsSettings(servers=(server.url,), token="s3cr3t")), RightMissing)
        assert isinstance(await refused(NatsSettings(servers=(server.url,))), RightMissing)


async def test_a_login_that_is_refused_is_tried_again_until_it_works(tmp_path: Path) -> None:
    with NatsServer(tmp_path, config_extra=one_user()) as server:
        async with Connection(NatsSettings(servers=(server.url,))) as connection:

            async def is_refused() -> bool:
                return isinstance(connection.problem, RightMissing)

            await eventually(is_refused)
            server.configure("")
            await asyncio.to_thread(server.restart)
            await connection.wait_connected(DEADLINE_S)


class NKey:
    """An NKEY pair of a kind, such as a user's; what the `nk` tool makes."""

    def __init__(self, letter: str) -> None:
        prefix = {"O": 14 << 3, "A": 0, "U": 20 << 3}[letter]
        self._key = Ed25519PrivateKey.generate()
        head = bytes([(18 << 3) | prefix >> 5, (prefix & 31) << 3])
        self.seed = self._encode(head + self._key.private_bytes_raw())
        self.public = self._encode(bytes([prefix]) + self._key.public_key().public_bytes_raw())

    @staticmethod
    def _encode(raw: bytes) -> str:
        check = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
        return base64.b32encode(raw + check).decode().rstrip("=")

    def jwt(self, subject: NKey, name: str, nats: dict[str, object]) -> str:
        claims = {
            "jti": name,
            "iat": 1,
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": nats,
        }
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        parts = [_base64(json.dumps(part).encode()) for part in (header, claims)]
        return ".".join([*parts, _base64(self._key.sign(".".join(parts).encode()))])


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def test_a_login_works_with_an_nkey_seed(tmp_path: Path) -> None:
    key, stranger = NKey("U"), NKey("U")
    seed = tmp_path / "user.seed"
    seed.write_text(key.seed + "\n")
    extra = f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}"
    with NatsServer(tmp_path, config_extra=extra) as server:
        settings = NatsSettings(servers=(server.url,), nkey_seed_path=seed)
        async with connected(settings) as connection:
            assert await peek(connection) is None
        seed.write_text(stranger.seed)
        assert "a login that" in str(await refused(settings))
        for damaged in (key.seed[:-1], "SU" + "A" * 56, "nonsense", ""):
            seed.write_text(damaged)
            assert "damaged or incomplete" in str(await refused(settings))
        seed.unlink()
        assert "No such file" in str(await refused(settings))


async def test_a_login_works_with_a_credentials_file(tmp_path: Path) -> None:
    operator, account, user = NKey("O"), NKey("A"), NKey("U")
    limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
    account_jwt = operator.jwt(
        account, "A", {"type": "account", "version": 2, "limits": {**limits, **storage}}
    )
    user_jwt = account.jwt(user, "U", {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1})
    operator_jwt = operator.jwt(operator, "O", {"type": "operator", "version": 2})
    creds = tmp_path / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    preload = f"resolver_preload: {{ {account.public}: {account_jwt} }}"
    extra = f"operator: {operator_jwt}\nresolver: MEMORY\n{preload}\n"
    with NatsServer(tmp_path, config_extra=extra, jetstream=False) as server:
        settings = NatsSettings(servers=(server.url,), creds_path=creds)
        async with connected(settings) as connection:
            assert connection.problem is None
        creds.write_text("nothing of use")
        assert "a .creds file holds" in str(await refused(settings))


def issue(
    directory: Path, name: str, ca: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    """Writes name.pem and name.key: a CA, or a certificate for 127.0.0.1 that it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = ca or (subject, key)
    now = datetime.now(UTC)  # noqa: TID251 - a certificate holds by the real clock
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    )
    certificate = builder.sign(signer, hashes.SHA256())
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return subject, key


async def test_tls_works_both_ways_and_says_what_is_wrong(tmp_path: Path) -> None:
    ca = issue(tmp_path, "ca")
    issue(tmp_path, "stranger")
    for name in ("server", "client"):
        issue(tmp_path, name, ca)
    extra = (
        f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", '
        f'ca_file: "{tmp_path}/ca.pem", verify: true }}'
    )
    ours = {"tls_cert": tmp_path / "client.pem", "tls_key": tmp_path / "client.key"}
    with NatsServer(tmp_path, config_extra=extra) as server:
        url = server.url.replace("nats:", "tls:")
        settings = NatsSettings(servers=(url,), tls_ca=tmp_path / "ca.pem", **ours)
        async with connected(settings) as connection:
            assert await peek(connection) is None
        wrong_ca = NatsSettings(servers=(url,), tls_ca=tmp_path / "stranger.pem", **ours)
        assert "a TLS connection to tls://127.0.0.1" in str(await refused(wrong_ca))
        no_certificate = NatsSettings(servers=(url,), tls_ca=tmp_path / "ca.pem")
        assert isinstance(await refused(no_certificate), LogError)
        no_file = NatsSettings(servers=(url,), tls_ca=tmp_path / "absent.pem")
        assert "absent.pem" in str(await refused(no_file))


async def test_a_password_is_not_sent_in_clear_text_where_tls_is_wanted(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.15.1","headers":true,"auth_required":true}\r\n')
        received.append(await reader.read(1024))
        writer.close()
        await writer.wait_closed()

    issue(tmp_path, "ca")
    listener = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        settings = NatsSettings(
            servers=(f"tls://127.0.0.1:{port}",), user="agent", password=SECRET, tls_ca=tmp_path / "ca.pem"
        )
        assert "the server offers none" in str(await refused(settings))
        listener.close()
    assert received
    assert not any(received)


@pytest.mark.parametrize(
    "greeting",
    [b"", b"HTTP/1.1 400 Bad Request\r\n", b"INFO []\r\n", b"INFO {\r\n", b"\xff" * 70_000, b"INFO \xff\r\n"],
)
async def test_what_is_no_nats_server_is_given_up_and_tried_again(greeting: bytes) -> None:
    greeted = 0

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        writer.write(greeting)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, Connection(NatsSettings(servers=(f"nats://127.0.0.1:{port}",))) as connection:

        async def is_tried_again() -> bool:
            return greeted >= 3 and isinstance(connection.problem, LogUnavailable)

        await eventually(is_tried_again)
        assert "\n" not in str(connection.problem)


async def test_a_server_that_never_greets_is_given_up() -> None:
    over = asyncio.Event()

    async def stay_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    listener = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, Connection(NatsSettings(servers=(f"nats://127.0.0.1:{port}",))) as connection:

        async def is_noted() -> bool:
            return "does not answer" in str(connection.problem)

        await eventually(is_noted)
        assert isinstance(connection.problem, LogUnavailable)
        over.set()


async def test_a_consumer_on_no_stream_is_refused_and_named(bare: Connection) -> None:
    with pytest.raises(LogError, match=r"CONSUMER\.CREATE\.nothing"):
        async with push_consumer(bare.session(), "nothing", {}):
            pytest.fail("there is no such stream")
