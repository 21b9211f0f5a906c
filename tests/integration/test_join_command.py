"""`token create` on one host and `join` on another: what lies there afterwards, and what stops it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from authority_host import MESH, Host
from cryptography import x509
from structlog.testing import capture_logs

from pmoves_mesh.agent.trust.enroller import LocalEnroller
from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.joining import joining_settings
from pmoves_mesh.cli.main import main as run_command
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.core.event import EnrolmentRefused, IdentityIssued
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.tokens import decode
from pmoves_mesh.store.ledger import IssuedCertificate

DEADLINE_S = 30.0


class Place:
    """A directory with settings, in which commands are run as on a host of its own."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.directory = directory
        self._monkeypatch, self._capsys = monkeypatch, capsys
        directory.mkdir(exist_ok=True)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Returns the exit code, and what was printed on stdout and stderr."""
        self._monkeypatch.chdir(self.directory)
        async with asyncio.timeout(DEADLINE_S):
            code = await asyncio.to_thread(run_command, arguments)
        printed = self._capsys.readouterr()
        assert "a bug" not in printed.err
        return code, printed.out, printed.err

    def files(self) -> dict[str, bytes]:
        found = self.directory.rglob("*")
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def notes() -> list[tuple[type, dict[str, Any]]]:
    return []


@pytest.fixture
async def main_host(tmp_path: Path, notes: list[Any]) -> AsyncIterator[Host]:
    async with Host(tmp_path / "main").serving() as host:
        port = host.url.rpartition(":")[2]
        settings = [
            f"PMOVES_MESH_NAME={MESH}",
            "MESH_HOSTNAME=main",
            "SERVICE_REGISTRY_HOST=0.0.0.0",
            f"SERVICE_REGISTRY_PORT={port}",
            "PMOVES_NATS_HOST=0.0.0.0",
            "PMOVES_ADVERTISE_HOST=127.0.0.1",
        ]
        (tmp_path / "main" / "env.shared").write_text("\n".join(settings))
        config = load({}, tmp_path / "main")

        async def issued(_certificate: IssuedCertificate) -> None:
            return

        async def note(event: type, **fields: str | int) -> None:
            notes.append((event, fields))

        host.enroller = LocalEnroller(
            Issuing(host.tls_dir, MESH, "main"),
            SystemClock(),
            issued=issued,
            note=note,
            settings=lambda node: joining_settings(config, node),
        )
        yield host


@pytest.fixture
def main(
    main_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Place:
    assert main_host.url
    return Place(tmp_path / "main", monkeypatch, capsys)


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path / "jetson", monkeypatch, capsys)


async def a_token(main: Place, *arguments: str) -> str:
    code, out, err = await main.run("token", "create", *arguments)
    assert code == 0, err
    assert len(out.splitlines()) == 1
    return out.strip()


async def test_a_host_joins_with_one_line_and_can_start(main: Place, jetson: Place, main_host: Host):
    token = await a_token(main, "--node", "jetson", "--allow", "whisper-*", "--lifetime", "2d")
    code, out, _ = await jetson.run("join", token)
    assert code == 0
    assert f"joined: mesh {MESH}, as node jetson" in out
    assert set(jetson.files()) == {
        "env.shared",
        "tls/ca.crt",
        "data/identity/node.crt",
        "data/identity/node.key",
    }
    identity = jetson.directory / "data" / "identity"
    assert {(identity / "node.key").stat().st_mode & 0o777} == {0o600}
    assert (jetson.directory / "env.shared").stat().st_mode & 0o777 == 0o600
    config = load({}, jetson.directory)
    assert (config.mesh, config.node) == (MESH, "jetson")
    assert config.nats_servers == ("tls://127.0.0.1:4222",)
    assert config.ca_urls == (main_host.url,)
    opened = keystore.open_identity(identity, config.tls_dir, MESH, "jetson", (), SystemClock().now_ms())
    assert opened.allow == ("whisper-*",)
    assert opened.id == f"spiffe://{MESH}/node/jetson"
    assert keystore.read_roots(config.tls_dir) == main_host.roots


async def test_the_key_is_made_where_it_is_used_and_only_a_request_travels(
    main: Place, jetson: Place, main_host: Host
):
    token = await a_token(main)
    await jetson.run("join", token, "--name", "jetson")
    key = read_key(jetson.directory / "data" / "identity" / "node.key")
    (_, body) = main_host.asked[-1]
    assert set(body) == {"token", "secret", "csr"}
    assert x509.load_pem_x509_csr(body["csr"].encode()).public_key() == key.public_key()
    assert not any(b"PRIVATE" in content for name, content in main.files().items() if ".key" not in name)


async def test_what_env_shared_held_before_stays_as_it_was(main: Place, jetson: Place):
    before = (
        "# mine\nexport ANNOUNCE_SEC=30\n\nPMOVES_MESH_NAME=test-mesh\n#NATS_URL=x\nSECRET='a b'\nNATS_URL=\n"
    )
    (jetson.directory / "env.shared").write_text(before)
    assert (await jetson.run("join", await a_token(main), "--name", "jetson"))[0] == 0
    lines = (jetson.directory / "env.shared").read_text().splitlines()
    assert lines[:6] == before.splitlines()[:6]
    assert lines[6] == "NATS_URL=tls://127.0.0.1:4222"
    assert {line.partition("=")[0] for line in lines[7:]} == {"MESH_HOSTNAME", "PMOVES_CA_URL"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("PMOVES_MESH_NAME=other", "PMOVES_MESH_NAME"),
        ("MESH_HOSTNAME=xavier", "MESH_HOSTNAME"),
        ("NATS_URL=nats://10.9.9.9:4222", "NATS_URL"),
        ("PMOVES_CA_URL=https://10.9.9.9:1", "PMOVES_CA_URL"),
    ],
)
async def test_a_setting_that_says_something_else_is_replaced_only_by_force(
    main: Place, jetson: Place, main_host: Host, line: str, name: str
):
    (jetson.directory / "env.shared").write_text(f"{line}\nANNOUNCE_SEC=30\n")
    before, token = jetson.files(), await a_token(main)
    code, _, err = await jetson.run("join", token, "--name", "jetson")
    assert code == 1
    assert name in err
    assert "--force" in err
    assert jetson.files() == before
    assert main_host.asked == []
    assert (await jetson.run("join", token, "--name", "jetson", "--force"))[0] == 0
    assert line not in (jetson.directory / "env.shared").read_text()
    assert "ANNOUNCE_SEC=30" in (jetson.directory / "env.shared").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PMOVES_MESH_NAME", "other"),
        ("MESH_HOSTNAME", "xavier"),
        ("NODE_NAME", "x"),
        ("NATS_URL", "nats://x"),
    ],
)
async def test_an_environment_that_would_outrank_the_settings_is_named(
    main: Place, jetson: Place, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    token = await a_token(main)
    monkeypatch.setenv(name, value)
    code, _, err = await jetson.run("join", token, "--name", "jetson", "--force")
    assert code == 1
    assert f"{name}='{value}'" in err
    assert jetson.files() == {}


async def test_a_host_that_is_in_a_mesh_leaves_it_only_by_force_and_loses_no_key(main: Place, jetson: Place):
    await jetson.run("certs", "init")
    before, token = jetson.files(), await a_token(main)
    code, _, err = await jetson.run("join", token, "--name", "jetson")
    assert code == 1
    assert "is in mesh pmoves-mesh already" in err
    assert jetson.files() == before
    code, _, err = await jetson.run("join", token, "--name", "jetson", "--force")
    assert code == 0, err
    assert not (jetson.directory / "tls" / "ca.key").exists()
    (aside,) = (jetson.directory / "tls").glob("before-*")
    assert {f"tls/{path.name}": path.read_bytes() for path in aside.iterdir()} == before


async def test_each_refusal_is_one_line_that_says_which_and_changes_nothing(
    main: Place, jetson: Place, notes: list[Any]
):
    good = await a_token(main, "--node", "other")
    used = await a_token(main)
    assert (await jetson.run("join", used, "--name", "first"))[0] == 0
    fresh = Place(jetson.directory.with_name("fresh"), jetson._monkeypatch, jetson._capsys)
    withdrawn = await a_token(main)
    assert (await main.run("token", "revoke", decode(withdrawn).id))[0] == 0
    cases = [
        (used, "this token was used already"),
        (withdrawn, "knows no such token"),
        (good, "this token is for node other, not for jetson"),
        (good[:-1], "the token is damaged"),
        ("nonsense", "the token is damaged"),
    ]
    for token, problem in cases:
        with capture_logs():  # the agent on the other host is in this process too
            code, out, err = await fresh.run("join", token, "--name", "jetson")
        assert (code, out) == (1, "")
        assert problem in err
        assert len(err.splitlines()) == 1
        assert fresh.files() == {}
    refused = {note["reason"] for kind, note in notes if kind is EnrolmentRefused}
    assert refused == {"token_used", "token_unknown", "name_not_allowed"}
    assert [note["identity"] for kind, note in notes if kind is IdentityIssued] == [
        f"spiffe://{MESH}/node/first"
    ]


async def test_another_authority_than_the_tokens_is_refused(main: Place, jetson: Place, tmp_path: Path):
    token = await a_token(main)
    async with Host(tmp_path / "impostor").serving() as impostor:
        misled = decode(token)
        line = type(misled)(
            **{field: getattr(misled, field) for field in misled.__dataclass_fields__}
            | {"urls": (impostor.url,)}
        ).encode()
        code, _, err = await jetson.run("join", line, "--name", "jetson")
        assert code == 1
        assert "it has another CA than the token" in err
        assert [path for path, _ in impostor.asked] == ["/api/trust"]
        assert jetson.files() == {}


async def test_a_host_whose_answer_went_astray_joins_with_the_same_token(
    main: Place, jetson: Place, main_host: Host
):
    token = await a_token(main)
    assert main_host.enroller is not None
    giving = main_host.enroller.enrol

    async def lost(wanted: Any) -> Any:
        await giving(wanted)
        raise OSError

    main_host.enroller.enrol = lost  # type: ignore[method-assign]
    code, _, err = await jetson.run("join", token, "--name", "jetson")
    assert code == 1
    assert "cannot be reached" in err
    main_host.enroller.enrol = giving  # type: ignore[method-assign]
    assert (await jetson.run("join", token, "--name", "jetson"))[0] == 0
    assert "data/identity/joining.key" not in jetson.files()
    (certificate,) = read_certificates(jetson.directory / "data" / "identity" / "node.crt")
    assert certificate.public_key() == read_key(jetson.directory / "data/identity/node.key").public_key()


# Tokens


async def test_a_token_is_one_line_and_only_its_hash_is_kept(main: Place, main_host: Host):
    code, out, err = await main.run("token", "create", "--ttl", "1h")
    assert code == 0
    token = decode(out)
    assert (token.mesh, token.issuer, token.urls) == (MESH, "main", (main_host.url,))
    assert token.ca == main_host.identity.root
    assert "pmoves-mesh join" in err
    assert not any(token.secret.encode() in content for content in main.files().values())
    _, listed, _ = await main.run("token", "list")
    assert token.id in listed
    assert token.secret not in listed
    assert "open" in listed


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("SERVICE_REGISTRY_HOST=127.0.0.1", "SERVICE_REGISTRY_HOST=0.0.0.0"),
        ("PMOVES_NATS_HOST=127.0.0.1", "PMOVES_NATS_HOST=0.0.0.0"),
        ("NATS_URL=nats://127.0.0.1:4222", "NATS_EXTERNAL_URL"),
        ("SERVICE_REGISTRY_PORT=0", "SERVICE_REGISTRY_PORT"),
    ],
)
async def test_a_host_that_others_cannot_reach_makes_no_token_and_says_what_to_set(
    main: Place, setting: str, advice: str
):
    path = main.directory / "env.shared"
    name = setting.partition("=")[0]
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}=")]
    path.write_text("\n".join([*kept, setting]))
    code, out, err = await main.run("token", "create")
    assert (code, out) == (1, "")
    assert advice in err
    assert len(err.splitlines()) == 1
    if not name.endswith("PORT"):
        assert decode(await a_token(main, "--local")).urls[-1].startswith("https://127.0.0.1:")


async def test_a_host_without_the_authoritys_key_makes_no_token(jetson: Place):
    code, out, err = await jetson.run("token", "create")
    assert (code, out) == (1, "")
    assert "ca.key is not here" in err
    assert jetson.files() == {}


async def test_a_token_that_is_not_there_cannot_be_withdrawn(main: Place):
    code, _, err = await main.run("token", "revoke", "nothing")
    assert code == 1
    assert "there is no token nothing" in err
