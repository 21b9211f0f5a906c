"""`certs issue`, `certs renew` and `certs list`: what lies in files afterwards, and in the ledger."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.cli.durations import parse_duration, shown_duration
from pmoves_mesh.cli.main import main
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.limits import patterns_of
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates, read_key, write_certificate
from pmoves_mesh.pki.requests import make_request
from pmoves_mesh.pki.rotation import begin_rotation
from pmoves_mesh.ports import ServiceRequest
from pmoves_mesh.store.ledger import Ledger

MESH = "pmoves-mesh"


@pytest.fixture
def tls_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    for name in list(os.environ):
        if name.startswith(("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_HOSTNAME", "alpha")
    assert main(["certs", "init"]) == 0
    capsys.readouterr()
    return tmp_path / "tls"


def one(path: Path) -> x509.Certificate:
    (certificate,) = read_certificates(path)
    return certificate


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str], list[str]]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        names.get_values_for_type(x509.UniformResourceIdentifier),
        names.get_values_for_type(x509.DNSName),
        [str(address) for address in names.get_values_for_type(x509.IPAddress)],
    )


def seconds_of(certificate: x509.Certificate) -> int:
    return int((certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds())


def test_a_service_gets_its_files_with_exactly_what_was_asked_for(
    tls_dir: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--san", "whisper.lan", "--san", "10.0.0.5", "--lifetime", "36h", "--backdate", "5m"]
    assert main(["certs", "issue", "--service", "whisper", *arguments]) == 0
    path = tls_dir / "services" / "whisper.crt"
    certificate = one(path)
    assert names_of(certificate) == (
        [f"spiffe://{MESH}/service/whisper"],
        ["whisper.lan"],
        ["10.0.0.5"],
    )
    assert seconds_of(certificate) == 36 * 3600 + 300
    assert patterns_of(certificate) == ()
    assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    assert read_key(path.with_suffix(".key")).public_key() == certificate.public_key()
    assert capsys.readouterr().out.splitlines() == [f"made  {path}", f"made  {path.with_suffix('.key')}"]
    (recorded,) = Ledger(tls_dir / "authority.db").certificates()
    assert (recorded.kind, recorded.name) == ("service", "whisper")


def test_operators_and_nodes_have_places_of_their_own(tls_dir: Path, tmp_path: Path):
    assert main(["certs", "issue", "eve", "--operator"]) == 0
    assert names_of(one(tls_dir / "operator.crt"))[0] == [f"spiffe://{MESH}/operator/eve"]
    assert main(["certs", "issue", "jetson", "--allow", "whisper-*", "--allow", "RAG"]) == 0
    assert patterns_of(one(tls_dir / "nodes" / "jetson.crt")) == ("whisper-*", "rag")
    assert main(["certs", "issue", "xavier", "--node", "--out", "elsewhere"]) == 0
    assert names_of(one(tmp_path / "elsewhere" / "xavier.crt"))[0] == [f"spiffe://{MESH}/node/xavier"]


def test_issue_replaces_nothing_until_it_is_forced(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["certs", "issue", "--service", "rag"]) == 0
    path = tls_dir / "services" / "rag.crt"
    before, key = path.read_bytes(), path.with_suffix(".key").read_bytes()
    capsys.readouterr()
    assert main(["certs", "issue", "--service", "rag"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (path.read_bytes(), path.with_suffix(".key").read_bytes()) == (before, key)
    assert main(["certs", "issue", "--service", "rag", "--force"]) == 0
    assert path.with_suffix(".key").read_bytes() != key


def test_a_request_from_elsewhere_is_signed_and_printed_and_no_key_is_made(
    tls_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "jetson.csr").write_text(make_request(MESH, "node", "jetson", key, ("jetson.lan",)))
    assert main(["certs", "issue", "jetson", "--csr", "jetson.csr", "--san", "10.0.0.9"]) == 0
    certificate = x509.load_pem_x509_certificate(capsys.readouterr().out.encode())
    assert certificate.public_key() == key.public_key()
    assert names_of(certificate)[1:] == (["jetson.lan"], ["10.0.0.9"])
    assert main(["certs", "issue", "other", "--csr", "jetson.csr"]) == 1
    assert "is a request for node jetson, not for node other" in capsys.readouterr().err
    assert main(["certs", "issue", "jetson", "--csr", "jetson.csr", "--out", "made"]) == 0
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["jetson.crt"]
    assert not (tls_dir / "nodes").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["UPPER/x"], 1),
        (["a", "--allow", "two words"], 1),
        (["a", "--san", "*.lan"], 1),
        (["a", "--lifetime", "forever"], 2),
        (["a", "--lifetime", "9999d"], 2),
        (["a", "--backdate", "2d"], 2),
        (["a", "--csr", "missing.csr"], 2),
    ],
)
def test_what_cannot_be_issued_leaves_no_file(
    tls_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
):
    assert main(["certs", "issue", *arguments]) == code
    assert "bug" not in capsys.readouterr().err
    assert not list(tls_dir.rglob("a.*"))
    assert Ledger(tls_dir / "authority.db").certificates() == []


def test_a_passphrase_in_the_settings_opens_the_authority(
    tls_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MESH_PASSPHRASE", "correct horse")
    assert main(["certs", "init", "--force"]) == 0
    assert b"ENCRYPTED" in (tls_dir / "ca.key").read_bytes()
    assert main(["certs", "issue", "--service", "rag"]) == 0
    monkeypatch.delenv("MESH_PASSPHRASE")
    assert main(["certs", "issue", "--service", "other"]) == 1
    assert "MESH_PASSPHRASE" in capsys.readouterr().err


def test_only_what_is_past_two_thirds_of_its_time_is_renewed(
    tls_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert (
        main(
            ["certs", "issue", "--service", "old", "--lifetime", "10m", "--backdate", "1h", "--allow", "x-*"]
        )
        == 0
    )
    assert main(["certs", "issue", "--service", "young"]) == 0
    old, young = (tls_dir / "services" / f"{name}.crt" for name in ("old", "young"))
    before = {path: one(path) for path in (old, young)}
    capsys.readouterr()
    assert main(["certs", "renew"]) == 0
    lines = dict(reversed(line.split()) for line in capsys.readouterr().out.splitlines())
    assert {Path(path).stem: what for path, what in lines.items()} == {
        "client": "kept",
        "server": "kept",
        "old": "renewed",
        "young": "kept",
    }
    assert one(young) == before[young]
    renewed = one(old)
    assert renewed.serial_number != before[old].serial_number
    assert renewed.public_key() == before[old].public_key()
    assert names_of(renewed) == names_of(before[old])
    assert patterns_of(renewed) == ("x-*",)
    assert abs(seconds_of(renewed) - 600 - 60) <= 1


def test_what_is_named_or_all_is_renewed_at_once(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    before = {name: one(tls_dir / f"{name}.crt") for name in ("server", "client")}
    assert main(["certs", "renew", "server"]) == 0
    after = one(tls_dir / "server.crt")
    assert after != before["server"]
    assert abs(seconds_of(after) - seconds_of(before["server"])) <= 1
    assert one(tls_dir / "client.crt") == before["client"]
    assert main(["certs", "renew", "--all"]) == 0
    assert one(tls_dir / "client.crt") != before["client"]
    capsys.readouterr()
    assert main(["certs", "renew", "nothing"]) == 1
    assert "holds no certificate and key of nothing" in capsys.readouterr().err


def test_during_a_rotation_what_the_old_authority_signed_is_renewed(tls_dir: Path):
    begun = begin_rotation(tls_dir, MESH, SystemClock().now_ms())
    assert main(["certs", "renew"]) == 0
    for name in ("server", "client"):
        one(tls_dir / f"{name}.crt").verify_directly_issued_by(begun.root)


def test_list_and_show_tell_what_was_given_and_to_whom(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["certs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    main(["certs", "issue", "jetson", "--allow", "rag"])
    main(["certs", "issue", "--service", "whisper"])
    ledger = Ledger(tls_dir / "authority.db")
    (jetson,) = ledger.certificates(name="jetson")
    ledger.revoke([jetson.fingerprint], SystemClock().now_ms())
    capsys.readouterr()
    assert main(["certs", "list", "--json"]) == 0
    listed = {row["identity"].rpartition("/")[2]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["jetson"]["state"] == "revoked"
    assert listed["jetson"]["allow"] == ["rag"]
    assert listed["whisper"]["state"] == "valid"
    for target in ("whisper", "services/whisper.crt", str(tls_dir / "services" / "whisper.crt")):
        assert main(["certs", "show", target, "--json"]) == 0
        (shown,) = json.loads(capsys.readouterr().out)
        assert shown["fingerprint"] == listed["whisper"]["fingerprint"]
    assert main(["certs", "show", "jetson"]) == 0
    assert jetson.fingerprint in capsys.readouterr().out
    assert main(["certs", "show", "nobody"]) == 1
    assert "no file with a certificate" in capsys.readouterr().err


# Without the authority's key, through the agent


@pytest.fixture
def agent(tls_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """An agent's HTTP side, which has the CA that this directory loses."""
    away = tmp_path / "away"
    away.mkdir()
    for name in ("ca.crt", "ca.key"):
        (away / name).write_bytes((tls_dir / name).read_bytes())
        (away / name).chmod(0o600)
    (tls_dir / "ca.key").unlink()
    issuing, asked = Issuing(away, MESH, "main"), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"]))
            wanted = ServiceRequest(name="whisper", csr=body["csr"], remote="127.0.0.1")
            given = issuing.certify(wanted, SystemClock().now_ms())
            pem = x509.load_der_x509_certificate(given.certificate.der).public_bytes(Encoding.PEM).decode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"certificate": pem, "roots": []}).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("SERVICE_REGISTRY_PORT", str(server.server_port))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_the_authority_a_service_is_certified_through_this_hosts_agent(
    tls_dir: Path, tmp_path: Path, agent: list[Any], capsys: pytest.CaptureFixture[str]
):
    assert main(["certs", "issue", "--service", "whisper"]) == 1
    assert "agent.secret" in capsys.readouterr().err
    assert agent == []
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agent.secret").write_text("swordfish\n")
    assert main(["certs", "issue", "--service", "whisper"]) == 0
    path = tls_dir / "services" / "whisper.crt"
    assert names_of(one(path))[0] == [f"spiffe://{MESH}/service/whisper"]
    assert main(["certs", "renew", "whisper"]) == 0
    bearer = "Bearer swordfish"
    assert agent == [("/api/certificates", bearer), ("/api/renew", bearer)]
    assert not (tls_dir / "authority.db").exists()


@pytest.mark.parametrize(
    "arguments", [["jetson"], ["eve", "--operator"], ["whisper", "--service", "--lifetime", "90d"]]
)
def test_without_the_authority_nothing_else_is_issued(
    tls_dir: Path, agent: list[Any], capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    assert main(["certs", "issue", *arguments]) == 1
    assert f"{tls_dir / 'ca.key'} is not here" in capsys.readouterr().err
    assert agent == []


def test_a_certificate_of_another_authority_is_not_written(
    tls_dir: Path, tmp_path: Path, agent: list[Any], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "agent.secret").write_text("swordfish")
    keystore.ensure_authority(tmp_path / "other", MESH, SystemClock().now_ms())
    write_certificate(tls_dir / "ca.crt", keystore.read_roots(tmp_path / "other")[0])
    assert main(["certs", "issue", "--service", "whisper"]) == 1
    assert len(agent) == 1
    assert "does not chain" in capsys.readouterr().err
    assert not (tls_dir / "services" / "whisper.crt").exists()


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("36h", 129_600), ("30d", 2_592_000), (" 1H ", 3600), ("0s", 0)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int):
    assert parse_duration(text) == seconds
    assert parse_duration(shown_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "-1h", "1.5h", "1w", "1h30m", "٣h", "9999999999d"])
def test_anything_else_is_no_duration(text: str):
    assert parse_duration(text) is None
