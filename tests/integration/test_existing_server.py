"""A nats-server that is somebody else's: its logins, its TLS, its rights, and what is in it already."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import quote

import pytest
import requests
from agents import AgentProcess, Mesh, eventually
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.js.api import StreamConfig
from nats_server import NatsServer
from plain_nats import plain_client

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.pki import keystore

SECRET = "S3cr3t/w@rd:1 #x"
STREAM = "/api/watch"
SHOWN_NOWHERE = ("S3cr3t", "w@rd", "w%40rd")
Start = Callable[..., Mesh]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with a configuration of its own; agents join it by their settings alone."""
    with ExitStack() as stack:

        def start(config: str = "", *, jetstream: bool = True) -> Mesh:
            server = NatsServer(tmp_path, config_extra=config, jetstream=jetstream)
            return stack.enter_context(Mesh(tmp_path, server))

        yield start


def check_works(agent: AgentProcess) -> None:
    """Checks that an agent joins, that a registration goes through the server, and that it ends well."""
    agent.start().ready()
    answer = agent.register("whisper", port=9000)
    assert (answer.status, answer.position > 0) == (200, True)
    agent.terminate()
    assert agent.logged("agent stopped")


def refused(agent: AgentProcess) -> str:
    """Starts an agent that must not start, and returns the one line that it ends with."""
    done = agent.run("agent")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    check_no_secret(done)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pmoves-mesh: ")]
    assert done.stderr.splitlines()[-1] == line
    return line


def check_no_secret(*places: CompletedProcess[str] | str | Path) -> None:
    for place in places:
        match place:
            case Path():
                text = place.read_bytes().decode(errors="replace")
            case CompletedProcess():
                text = place.stdout + place.stderr
            case _:
                text = place
        assert not [part for part in SHOWN_NOWHERE if part in text]


def with_login(url: str, login: str) -> str:
    return url.replace("://", f"://{login}@")


# Logins


def test_user_and_password_may_stand_in_the_url(served: Start):
    mesh = served(f'authorization {{ user: "mesh", password: {json.dumps(SECRET)} }}')
    url = with_login(mesh.server.url, f"mesh:{quote(SECRET, safe='')}")
    check_works(mesh.agent("alpha", NATS_URL=url))


def test_user_and_password_may_be_settings_of_their_own(served: Start):
    mesh = served(f'authorization {{ user: "mesh", password: {json.dumps(SECRET)} }}')
    check_works(mesh.agent("alpha", NATS_USER="mesh", NATS_PASSWORD=SECRET))


@pytest.mark.parametrize("place", ["url", "setting"])
def test_a_token_may_stand_in_the_url_or_in_a_setting(served: Start, place: str):
    mesh = served(f"authorization {{ token: {json.dumps(SECRET)} }}")
    url = with_login(mesh.server.url, quote(SECRET, safe=""))
    settings = {"NATS_URL": url} if place == "url" else {"NATS_TOKEN": SECRET}
    check_works(mesh.agent("alpha", **settings))


def nkey(kind: int, *parts: bytes) -> str:
    """Returns what NATS calls an encoded key: base32 of prefix, key and checksum."""
    raw = bytes([kind]) + b"".join(parts)
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def test_an_nkey_seed_in_a_file_logs_in(served: Start, tmp_path: Path):
    key = Ed25519PrivateKey.generate()
    user = 20 << 3
    seed = nkey(18 << 3 | user >> 5, bytes([(user & 31) << 3]), key.private_bytes_raw())
    public = nkey(user, key.public_key().public_bytes_raw())
    assert (seed[:2], public[:1]) == ("SU", "U")
    path = tmp_path / "mesh.nk"
    path.write_text(f"{seed}\n")
    mesh = served(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    agent = mesh.agent("alpha", NATS_NKEY_SEED=str(path))
    check_works(agent)
    assert seed not in agent.whole_log


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The certificates of whoever runs the server: another CA than the mesh's own."""
    keystore.init(tmp_path / "site", "site", "alpha", (), SystemClock().now_ms())
    return tmp_path / "site"


@pytest.fixture
def over_tls(served: Start, site: Path) -> Mesh:
    """A server that wants TLS from both sides."""
    files = f'cert_file: "{site}/server.crt", key_file: "{site}/server.key", ca_file: "{site}/ca.crt"'
    return served(f"tls {{ {files}, verify: true }}")


def tls_settings(mesh: Mesh, site: Path, **settings: str) -> dict[str, str]:
    return {
        "NATS_URL": mesh.server.url.replace("nats://", "tls://"),
        "NATS_TLS_CA": str(site / "ca.crt"),
        "NATS_TLS_CERT": str(site / "client.crt"),
        "NATS_TLS_KEY": str(site / "client.key"),
        **settings,
    }


def test_tls_with_a_ca_file_and_a_certificate_of_our_own_works(over_tls: Mesh, site: Path):
    check_works(over_tls.agent("alpha", **tls_settings(over_tls, site)))


def test_a_server_that_the_ca_file_does_not_vouch_for_is_one_line(over_tls: Mesh, site: Path, tmp_path: Path):
    keystore.ensure_authority(tmp_path / "other", "other", SystemClock().now_ms())
    settings = tls_settings(over_tls, site, NATS_TLS_CA=str(tmp_path / "other" / "ca.crt"))
    assert "TLS" in refused(over_tls.agent("alpha", **settings))


def test_a_certificate_file_that_is_not_there_is_one_line_that_names_it(over_tls: Mesh, site: Path):
    settings = tls_settings(over_tls, site, NATS_TLS_CERT=str(site / "absent.crt"))
    assert "absent.crt" in refused(over_tls.agent("alpha", **settings))


# Secrets


def test_a_password_is_shown_in_no_answer_no_log_no_output_and_no_file(served: Start):
    mesh = served(f'authorization {{ user: "mesh", password: {json.dumps(SECRET)} }}')
    url = with_login(mesh.server.url, f"mesh:{quote(SECRET, safe='')}")
    secrets = {"SERVICE_REGISTRY_TOKEN": SECRET, "TAILSCALE_AUTHKEY": SECRET}
    agent = mesh.agent("alpha", NATS_URL=url, NATS_EXTERNAL_URL=url, **secrets)
    agent.start().ready()
    registry = agent.registry
    assert registry["nats_url"] == registry["nats_external"] == mesh.server.url
    agent.register("whisper", port=9000, capabilities=["stt"])
    for path, methods in agent.get("/openapi.json").body["paths"].items():
        for method in methods:
            for name in ("whisper", "absent", "alpha"):
                if path == STREAM:
                    continue
                answer = agent.request(method.upper(), path.replace("{name}", name), json=["stt"])
                check_no_secret(answer.text, str(answer.headers))
    with requests.get(agent.url + STREAM, stream=True, timeout=10) as answer:
        check_no_secret(next(answer.iter_content(65536)).decode(), str(answer.headers))
    for words in (
        *(["status"], ["status", "--json"], ["nodes"], ["services"], ["discover", "stt"], ["version"]),
        *(["register", "jellyfin", "--port", "1"], ["service", "jellyfin"], ["deregister", "jellyfin"]),
        *(["certs", "show"], ["bucket", "rebuild"], ["migrate"], ["agent"], ["up"]),
    ):
        check_no_secret(agent.run(*words))
    mesh.server.kill()
    assert agent.get("/readyz").status in {200, 503}
    check_no_secret(agent.get("/api/status").text)
    agent.kill()
    check_no_secret(agent.whole_log, *(path for path in agent.data_dir.rglob("*") if path.is_file()))


def test_a_wrong_password_is_one_line_without_any_password(served: Start):
    mesh = served('authorization { user: "mesh", password: "another" }')
    url = with_login(mesh.server.url, f"mesh:{quote(SECRET, safe='')}")
    agent = mesh.agent("alpha", NATS_URL=url)
    assert "missing right: a login" in refused(agent)
    check_no_secret(*(path for path in agent.directory.rglob("*") if path.is_file()))


def test_a_url_that_cannot_be_used_is_one_line_without_its_password(tmp_path: Path):
    login = f"mesh:{quote(SECRET, safe='')}"
    agent = AgentProcess(tmp_path, "alpha", f"http://{login}@127.0.0.1:4222")
    assert "NATS_URL=" in refused(agent)


# Rights


def test_a_server_without_jetstream_is_one_line(served: Start):
    mesh = served(jetstream=False)
    assert "missing right: JetStream" in refused(mesh.agent("alpha"))


def test_an_account_without_jetstream_is_one_line(served: Start):
    mesh = served("accounts { MESH { users: [ { user: mesh, password: pw } ] } }")
    agent = mesh.agent("alpha", NATS_USER="mesh", NATS_PASSWORD="pw")
    assert "missing right: JetStream" in refused(agent)


@pytest.mark.parametrize(
    ("denied", "named"),
    [
        ("$JS.API.>", "$JS.API.STREAM.INFO.MESH_EVENTS"),
        ("$JS.API.STREAM.CREATE.MESH_EVENTS", "$JS.API.STREAM.CREATE.MESH_EVENTS"),
        ("$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.CREATE.MESH_EVENTS.materialiser"),
        ("$JS.API.DIRECT.GET.>", "$JS.API.DIRECT.GET.KV_MESH_IDENTITIES."),
        ("$KV.MESH_IDENTITIES.>", "$KV.MESH_IDENTITIES."),
        ("mesh.node.>", "mesh.node.announce.v1"),
    ],
)
def test_a_user_without_a_needed_permission_is_one_line_that_names_it(served: Start, denied: str, named: str):
    mesh = served(restricted(denied))
    line = refused(mesh.agent("alpha", NATS_USER="mesh", NATS_PASSWORD="pw"))
    assert line.startswith(f"pmoves-mesh: missing right: publish on {named}")


def test_a_user_that_may_not_receive_is_one_line_that_names_it(served: Start):
    mesh = served(
        'authorization { users: [ { user: mesh, password: pw, permissions: { subscribe: { deny: ">" } } } ] }'
    )
    agent = mesh.agent("alpha", NATS_USER="mesh", NATS_PASSWORD="pw")
    assert refused(agent).startswith("pmoves-mesh: missing right: subscribe to _INBOX.>")


def restricted(denied: str) -> str:
    rights = f'{{ publish: {{ deny: "{denied}" }} }}'
    return f"authorization {{ users: [ {{ user: mesh, password: pw, permissions: {rights} }} ] }}"


def test_a_member_that_may_no_longer_publish_keeps_serving_and_says_which_right_is_missing(served: Start):
    mesh = served(restricted("service.registry.>"))
    agent = mesh.started("alpha", NATS_USER="mesh", NATS_PASSWORD="pw")
    assert agent.post("/api/services", {"name": "whisper", "port": 1}, wait="none").status == 202
    assert agent.knows("whisper")

    def is_said() -> bool:
        return any("publish on service.registry.registered" in text for text in agent.registry["warnings"])

    eventually(is_said, "the status names the right")


# What is there already


def test_a_host_that_has_no_ca_of_a_mesh_that_exists_is_told_how_to_join(served: Start, tmp_path: Path):
    mesh = served()
    mesh.started("alpha")
    line = refused(mesh.agent("beta", PMOVES_TLS_DIR=str(tmp_path / "empty")))
    assert "already holds mesh pmoves-mesh" in line
    assert "pmoves-mesh join TOKEN" in line
    assert not (tmp_path / "empty" / "ca.key").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("pmoves-mesh", "is under the CA"), ("guest", "already holds mesh 'pmoves-mesh'")],
)
def test_an_agent_of_another_mesh_or_another_ca_refuses_to_start_there_and_leaves_no_trace(
    served: Start, tmp_path: Path, name: str, said: str
):
    mesh = served()
    alpha = mesh.started("alpha")
    keystore.ensure_authority(tmp_path / "theirs", name, SystemClock().now_ms())
    settings = {"PMOVES_TLS_DIR": str(tmp_path / "theirs"), "PMOVES_MESH_NAME": name}
    assert said in refused(mesh.agent("stranger", **settings))
    after = alpha.register("after", port=1).position
    assert alpha.get("/api/services", min_position=after).body["count"] == 1
    assert alpha.registry["rejections"] == []
    assert [node["name"] for node in alpha.get("/api/nodes").body["nodes"]] == ["alpha"]


async def test_the_old_registrys_stream_in_the_way_is_named_and_migrate_makes_room(served: Start):
    mesh = served()
    record = {"name": "jellyfin", "host": "10.0.0.3", "port": 8096, "mode": "docked", "capabilities": []}
    event = {"type": "registered", "service": "jellyfin", "timestamp": "2026-09-01T12:00:00", "data": record}
    async with plain_client(mesh.server.url) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig(name="service_registry", subjects=["service.registry.>"]))
        await jetstream.publish("service.registry.registered", json.dumps(event).encode())
    agent = mesh.agent("alpha")
    line = refused(agent)
    assert "stream service_registry already claims service.registry.>" in line
    assert "pmoves-mesh migrate service_registry" in line
    done = agent.run("migrate", "--yes")
    assert done.returncode == 0, done.stderr
    (kept,) = agent.data_dir.glob("migrated-service_registry.jsonl")
    assert json.loads(kept.read_text()) == event
    check_works(agent)
