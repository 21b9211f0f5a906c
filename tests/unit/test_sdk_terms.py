"""Where a program finds its agent, as whom it speaks, what it registers, and what refusals mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from certificates import FileAuthority

from pmoves_mesh import Mesh
from pmoves_mesh.config import Config, load
from pmoves_mesh.core.check import HttpCheck, TcpCheck, TtlCheck
from pmoves_mesh.errors import (
    ConfigError,
    InvalidFieldError,
    MeshError,
    NotOwnerError,
    PkiError,
    ServiceNotFound,
    WriteRefusedError,
)
from pmoves_mesh.sdk.agent_api import AgentUnavailable, refusal
from pmoves_mesh.sdk.place import Files, agent_place, identity_files, nats_settings
from pmoves_mesh.sdk.registration import wanted_of


def config_of(directory: Path, **environ: str) -> Config:
    return load(environ, directory)


@pytest.mark.parametrize(
    ("environ", "given", "url"),
    [
        ({}, None, "http://127.0.0.1:8100"),
        ({"SERVICE_REGISTRY_PORT": "8101"}, None, "http://127.0.0.1:8101"),
        ({"SERVICE_REGISTRY_HOST": "0.0.0.0"}, None, "http://127.0.0.1:8100"),
        ({"SERVICE_REGISTRY_HOST": "::"}, None, "http://[::1]:8100"),
        ({"SERVICE_REGISTRY_HOST": "10.0.0.7"}, None, "https://10.0.0.7:8100"),
        ({"SERVICE_REGISTRY_HOST": "10.0.0.7", "PMOVES_INSECURE_HTTP": "1"}, None, "http://10.0.0.7:8100"),
        ({"SERVICE_REGISTRY_URL": "http://jetson:8100"}, None, "http://jetson:8100"),
        ({"SERVICE_REGISTRY_URL": "http://jetson:8100"}, "http://other:1/", "http://other:1"),
    ],
)
def test_the_agent_is_where_the_settings_say(
    tmp_path: Path, environ: dict[str, str], given: str | None, url: str
):
    assert agent_place(config_of(tmp_path, **environ), given, None).url == url


def test_an_agent_that_picks_its_own_port_cannot_be_found(tmp_path: Path):
    with pytest.raises(ConfigError, match="SERVICE_REGISTRY_PORT"):
        agent_place(config_of(tmp_path, SERVICE_REGISTRY_PORT="0"), None, None)


def test_https_is_spoken_with_the_meshs_ca_where_that_is_there(tmp_path: Path):
    config = config_of(tmp_path, SERVICE_REGISTRY_HOST="10.0.0.7")
    assert agent_place(config, None, None).context is None
    FileAuthority(tmp_path / "tls").identity("whisper")
    assert agent_place(config, None, None).context is not None


def test_without_a_name_a_program_speaks_as_its_node_if_it_may(tmp_path: Path):
    config = config_of(tmp_path)
    assert identity_files(config, "") is None
    identity = tmp_path / "data" / "identity"
    identity.mkdir(parents=True)
    (identity / "node.crt").write_text("")
    assert identity_files(config, "") is None
    (identity / "node.key").write_text("")
    assert identity_files(config, "") == Files(identity / "node.crt", identity / "node.key")


def test_over_tls_a_service_logs_in_to_nats_with_its_certificate_and_no_password(tmp_path: Path):
    whisper = FileAuthority(tmp_path / "tls").identity("whisper")
    files = Files(whisper.certificate, whisper.key)
    config = config_of(tmp_path)
    found = nats_settings(config, ("tls://main:4222",), files)
    assert (found.tls_cert, found.tls_server, found.inbox_prefix) == (
        whisper.certificate,
        config.mesh,
        "_INBOX",
    )
    assert nats_settings(config, (), files).tls_cert is None
    by_password = config_of(tmp_path, NATS_USER="u", NATS_PASSWORD="p", NATS_URL="tls://main:4222")
    assert nats_settings(by_password, (), files).user == "u"
    with pytest.raises(PkiError, match="no identity of mesh other"):
        nats_settings(config_of(tmp_path, PMOVES_MESH_NAME="other"), ("tls://main:4222",), files)


def test_a_program_reports_by_itself_unless_the_agent_can_check_it():
    assert wanted_of("a", 1, {}).check == TtlCheck(ttl_s=10, remove_after_s=60)
    assert wanted_of("a", 1, {"health_url": "http://h/"}).check == HttpCheck(remove_after_s=300)
    assert wanted_of("a", 1, {"check": {"type": "tcp"}}).check == TcpCheck()
    assert wanted_of("a", 1, {"check": TcpCheck(port=2)}).check == TcpCheck(port=2)
    with pytest.raises(InvalidFieldError, match=r"check\.colour"):
        wanted_of("a", 1, {"check": {"type": "tcp", "colour": "red"}})


def test_a_weight_stands_in_the_metadata_beside_what_is_there():
    assert wanted_of("a", 1, {"metadata": {"b": 1}, "weight": 3}).metadata == {"b": 1, "weight": 3}


@pytest.mark.parametrize(
    ("status", "problem", "error"),
    [
        (422, {"detail": "port: -1 is not 0 to 65535", "field": "port"}, InvalidFieldError),
        (400, {}, InvalidFieldError),
        (401, {"detail": "needs its token"}, WriteRefusedError),
        (403, {"detail": "no"}, WriteRefusedError),
        (404, {"detail": "Service not found"}, ServiceNotFound),
        (409, {"detail": "elsewhere", "nodes": ["beta"]}, NotOwnerError),
        (503, {"detail": "later"}, AgentUnavailable),
        (502, None, AgentUnavailable),
        (507, {"detail": "too many"}, MeshError),
    ],
)
def test_a_refusal_is_the_error_that_it_stands_for(
    status: int, problem: dict[str, object] | None, error: type[MeshError]
):
    body = b"<html>" if problem is None else json.dumps(problem).encode()
    found = refusal(status, body, "rag")
    assert type(found) is error
    if isinstance(found, InvalidFieldError) and problem:
        assert str(found) == "port: -1 is not 0 to 65535"
    if isinstance(found, NotOwnerError):
        assert (found.service, found.nodes) == ("rag", ("beta",))
    assert getattr(found, "retryable", False) is (error is AgentUnavailable)


def test_a_setting_that_cannot_be_used_is_named_before_anything_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVICE_REGISTRY_URL", "jetson")
    with pytest.raises(ConfigError, match="SERVICE_REGISTRY_URL"):
        Mesh.connect()
    with pytest.raises(ConfigError, match="SERVICE_REGISTRY_URL"):
        Mesh.connect_sync()
