"""The settings: where they come from, what they become, and what is refused without a secret in it."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from pmoves_mesh.config import Config, is_loopback, load
from pmoves_mesh.core.application import Retention
from pmoves_mesh.errors import ConfigError
from pmoves_mesh.settings import SETTINGS
from pmoves_mesh.tailscale.settings import TailscaleSettings
from pmoves_mesh.values import Secret


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return tmp_path


def refusal(cwd: Path, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(environ, cwd)
    return caught.value


def test_without_any_setting_the_defaults_hold(cwd: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Jetson_1.local")
    assert load({}, cwd) == Config(
        mesh="pmoves-mesh",
        node="jetson-1-local",
        mode="docked",
        capabilities=(),
        nats_servers=("nats://127.0.0.1:4222",),
        embedded=True,
        nats_port=4222,
        nats_host="127.0.0.1",
        nats_dir=None,
        leaf=False,
        leaf_port=7422,
        nats_cluster=(),
        nats_external=(),
        nats_user=None,
        nats_password=None,
        nats_token=None,
        nats_creds=None,
        nats_nkey_seed=None,
        nats_tls_ca=None,
        nats_tls_cert=None,
        nats_tls_key=None,
        http_host="127.0.0.1",
        http_port=8100,
        http_token=None,
        agent_url=None,
        insecure_http=False,
        ca_passphrase=None,
        ca_urls=(),
        lease_ttl_s=10,
        reconcile_s=600,
        dns_port=8600,
        dns_ttl_s=5,
        dns_negative_ttl_s=1,
        command_checks=False,
        containers="",
        announce_s=15.0,
        advertise_host=None,
        data_dir=cwd / "data",
        host_root=Path("/"),
        tls_dir=cwd / "tls",
        accept_unsigned=False,
        bridge_announce=False,
        stream_max_age_s=30 * 86400,
        stream_max_bytes=1 << 30,
        events=Retention(max_age_s=7 * 86400, max_bytes=256 << 20),
        tailscale_authkey=None,
        tailscale=TailscaleSettings(tags=("tag:pmoves",)),
    )


def test_the_environment_outranks_the_file_and_the_file_the_default(cwd: Path):
    (cwd / "env.shared").write_text(
        "# shared\nPMOVES_MESH_NAME=from-file\nexport NODE_CAPABILITIES='rag, gpu:rtx5090'\nANNOUNCE_SEC=30\n"
    )
    config = load({"PMOVES_MESH_NAME": "from-env"}, cwd)
    assert config.mesh == "from-env"
    assert config.capabilities == ("rag", "gpu:rtx5090")
    assert config.announce_s == 30.0
    assert config.http_port == 8100


def test_an_empty_value_counts_as_unset_at_every_level(cwd: Path):
    (cwd / "env.shared").write_text("PMOVES_MESH_NAME=\nSERVICE_MODE\nANNOUNCE_SEC=20\n")
    config = load({"ANNOUNCE_SEC": " ", "NATS_URL": ""}, cwd)
    assert config.mesh == "pmoves-mesh"
    assert config.mode == "docked"
    assert config.announce_s == 20.0
    assert config.embedded


def test_the_file_is_taken_as_it_stands_without_interpolation(cwd: Path):
    (cwd / "env.shared").write_text("SECRET=x\nSERVICE_REGISTRY_TOKEN=${SECRET}y\n")
    assert load({"SECRET": "z"}, cwd).http_token == Secret("${SECRET}y")


def test_an_unreadable_file_is_named_in_the_refusal(cwd: Path):
    (cwd / "env.shared").write_bytes(b"PMOVES_MESH_NAME=\xff\xfe\n")
    assert refusal(cwd).variable == "env.shared"


@pytest.mark.parametrize(
    ("environ", "file", "node"),
    [
        ({"MESH_HOSTNAME": "Main.PC", "NODE_NAME": "other"}, "", "main-pc"),
        ({"NODE_NAME": "other"}, "", "other"),
        ({"NODE_NAME": "second"}, "MESH_HOSTNAME=first", "second"),
        ({}, "MESH_HOSTNAME=first\nNODE_NAME=second", "first"),
    ],
)
def test_the_node_is_named_by_either_variable_and_the_environment_decides(
    cwd: Path, environ: dict[str, str], file: str, node: str
):
    (cwd / "env.shared").write_text(file)
    assert load(environ, cwd).node == node


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://10.0.0.1:4223", ("nats://10.0.0.1:4223",)),
        ("main-pc:4222", ("nats://main-pc:4222",)),
        ("main-pc", ("nats://main-pc:4222",)),
        ("tls://a,wss://b,ws://c/path", ("tls://a:4222", "wss://b:443", "ws://c:80/path")),
        ("nats://[::1]:4222/ , nats://b", ("nats://[::1]:4222", "nats://b:4222")),
        ("nats://a,nats://a:4222", ("nats://a:4222",)),
    ],
)
def test_server_urls_are_made_whole(cwd: Path, url: str, servers: tuple[str, ...]):
    config = load({"NATS_URL": url}, cwd)
    assert config.nats_servers == servers
    assert not config.embedded


def test_credentials_in_a_url_are_taken_out_of_it(cwd: Path):
    config = load({"NATS_URL": "nats://pmoves:p%40ss@a:4222,nats://b"}, cwd)
    assert config.nats_servers == ("nats://a:4222", "nats://b:4222")
    assert config.nats_user == "pmoves"
    assert config.nats_password == Secret("p@ss")
    assert config.nats_token is None


def test_a_lone_user_in_a_url_is_a_token(cwd: Path):
    config = load({"NATS_EXTERNAL_URL": "nats://t0ken@vps:4222"}, cwd)
    assert config.nats_external == ("nats://vps:4222",)
    assert config.nats_token == Secret("t0ken")
    assert config.embedded


def test_credentials_of_their_own_outrank_those_in_a_url(cwd: Path):
    environ = {"NATS_URL": "nats://u:p@a", "NATS_USER": "own", "NATS_PASSWORD": "secret"}
    config = load(environ, cwd)
    assert config.nats_user == "own"
    assert config.nats_password == Secret("secret")


def test_urls_that_disagree_about_who_connects_are_refused(cwd: Path):
    error = refusal(cwd, NATS_URL="nats://u:one@a", NATS_EXTERNAL_URL="nats://u:two@b")
    assert error.variable == "NATS_EXTERNAL_URL"
    assert "same credentials" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hush@host:4222",
        "nats://u:hush@host:port",
        "nats://u:hush@host:0",
        "nats://u:hush@host:99999",
        "nats://u:hush@",
        "nats://u:hush#x@host",
        "nats://u:hu,sh@host",
        "nats://u:hush@host/path",
        "nats://u:hush@host?x=1",
        "nats://u:hush@a,nats://u:hush@ho st",
        "u:hush@[::1",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secret(cwd: Path, url: str):
    error = refusal(cwd, NATS_URL=url)
    assert error.variable == "NATS_URL"
    assert "hu" not in error.value
    assert "sh" not in error.value
    assert "hush" not in str(error)


def test_a_url_without_credentials_is_shown_whole_when_refused(cwd: Path):
    assert refusal(cwd, NATS_URL="nats://host:port").value == "nats://host:port"
    assert refusal(cwd, NATS_URL=",").value == ","


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PMOVES_MESH_NAME", "my mesh"),
        ("MESH_HOSTNAME", "..."),
        ("SERVICE_MODE", "swarm"),
        ("NODE_CAPABILITIES", "rag,-"),
        ("PMOVES_NATS_PORT", "0"),
        ("PMOVES_NATS_PORT", "4_222"),
        ("SERVICE_REGISTRY_HOST", "http://x"),
        ("SERVICE_REGISTRY_URL", "jetson:8100"),
        ("SERVICE_REGISTRY_URL", "http://jetson:8100/api"),
        ("SERVICE_REGISTRY_PORT", "65536"),
        ("SERVICE_REGISTRY_PORT", "-1"),
        ("PMOVES_DNS_PORT", "9" * 5000),
        ("ANNOUNCE_SEC", "0.5"),
        ("ANNOUNCE_SEC", "nan"),
        ("ANNOUNCE_SEC", "soon"),
        ("PMOVES_ADVERTISE_HOST", "a b"),
        ("PMOVES_CONTAINERS", "docker.sock"),
        ("PMOVES_UNSIGNED", "yes"),
        ("PMOVES_BRIDGE_ANNOUNCE", "true"),
        ("PMOVES_STREAM_MAX_AGE_S", "1"),
        ("PMOVES_STREAM_MAX_BYTES", "1GiB"),
        ("PMOVES_EVENTS_MAX_AGE_S", "1"),
        ("PMOVES_EVENTS_MAX_BYTES", "1GiB"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(cwd: Path, name: str, value: str):
    error = refusal(cwd, **{name: value})
    assert error.variable == name
    assert value.startswith(error.value)
    assert error.allowed
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_paths_become_absolute_from_the_working_directory(cwd: Path):
    environ = {"PMOVES_DATA_DIR": "data-2", "PMOVES_TLS_DIR": "/etc/mesh", "NATS_TLS_CA": "tls/ca.crt"}
    config = load(environ, cwd)
    assert config.data_dir == cwd / "data-2"
    assert config.tls_dir == Path("/etc/mesh")
    assert config.nats_tls_ca == cwd / "tls/ca.crt"


def test_a_secret_is_never_shown_but_when_revealed(cwd: Path):
    config = load({"SERVICE_REGISTRY_TOKEN": "hush", "NATS_URL": "nats://u:hush@a"}, cwd)
    assert "hush" not in repr(config)
    assert "hush" not in f"{config} {config.http_token} {config.nats_password!r} {dataclasses.asdict(config)}"
    assert config.http_token is not None
    assert config.http_token.reveal() == "hush"
    assert config.http_token == config.nats_password
    assert len({config.http_token, config.nats_password}) == 1


def test_every_setting_is_in_the_table_once_with_a_meaning_and_a_usable_default(cwd: Path):
    names = [setting.name for setting in SETTINGS]
    assert len(names) == len(set(names))
    assert all(setting.meaning for setting in SETTINGS)
    spelled_out = {setting.name: setting.default for setting in SETTINGS}
    assert load(spelled_out, cwd) == load({}, cwd)


def test_an_embedded_server_beyond_loopback_is_reached_by_tls(cwd: Path):
    config = load({"PMOVES_NATS_HOST": "0.0.0.0", "PMOVES_NATS_PORT": "4333"}, cwd)
    assert config.nats_servers == ("tls://127.0.0.1:4333",)
    assert config.embedded


def test_a_guest_uses_the_server_of_another_agent(cwd: Path):
    config = load({"PMOVES_NATS_DIR": "main/nats"}, cwd)
    assert config.nats_servers == ("tls://127.0.0.1:4222",)
    assert config.nats_dir == cwd / "main" / "nats"
    assert not config.embedded


def test_the_addresses_of_the_ca_are_https(cwd: Path):
    config = load({"PMOVES_CA_URL": "https://10.0.0.5:8100, https://[fd00::1]"}, cwd)
    assert config.ca_urls == ("https://10.0.0.5:8100", "https://[fd00::1]:443")
    with pytest.raises(ConfigError, match="PMOVES_CA_URL"):
        load({"PMOVES_CA_URL": "http://10.0.0.5:8100"}, cwd)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.8.9.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("main-pc", False),
    ],
)
def test_what_is_loopback_is_told_from_what_is_not(host: str, *, here: bool):
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://jetson", "http://jetson:8100"),
        ("https://10.0.0.7:443/", "https://10.0.0.7:443"),
        ("http://[::1]:8101", "http://[::1]:8101"),
    ],
)
def test_the_agent_of_a_program_is_named_by_its_address(cwd: Path, given: str, used: str):
    assert load({"SERVICE_REGISTRY_URL": given}, cwd).agent_url == used
