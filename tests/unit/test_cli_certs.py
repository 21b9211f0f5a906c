from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from pmoves_mesh.cli.main import main
from pmoves_mesh.pki.files import read_certificates

FILES = {"ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"}


@pytest.fixture
def tls_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in list(os.environ):
        if name.startswith(("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_HOSTNAME", "alpha")
    monkeypatch.setenv("NATS_EXTERNAL_URL", "tls://mesh.example.org:4222")
    return tmp_path / "tls"


def test_init_makes_all_files_and_says_so(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["certs", "init"]) == 0
    assert {path.name for path in tls_dir.iterdir()} == FILES
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [f"made  {tls_dir / name}" for name in sorted(FILES)]


def test_init_keeps_what_is_there_until_it_is_forced(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    main(["certs", "init"])
    before = {path.name: path.read_bytes() for path in tls_dir.iterdir()}
    capsys.readouterr()
    assert main(["certs", "init"]) == 0
    assert all(line.startswith("kept  ") for line in capsys.readouterr().out.splitlines())
    assert {path.name: path.read_bytes() for path in tls_dir.iterdir()} == before
    assert main(["certs", "init", "--force"]) == 0
    assert not any(path.read_bytes() == before[path.name] for path in tls_dir.iterdir())


def test_init_asks_for_a_passphrase_and_encrypts_the_authority_alone(
    tls_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []

    def prompt(_text: str, *, hide_input: bool, confirmation_prompt: bool, err: bool) -> str:
        assert hide_input
        assert err
        asked.append(confirmation_prompt)
        return "correct horse"

    monkeypatch.setattr(click, "prompt", prompt)
    assert main(["certs", "init", "--passphrase"]) == 0
    assert main(["certs", "init", "--passphrase"]) == 0
    assert asked == [True, False], "a new one is typed twice"
    encrypted = {path.name for path in tls_dir.glob("*.key") if b"ENCRYPTED" in path.read_bytes()}
    assert encrypted == {"ca.key"}


def test_show_tells_whose_they_are_for_which_names_and_until_when(
    tls_dir: Path, capsys: pytest.CaptureFixture[str]
):
    main(["certs", "init"])
    capsys.readouterr()
    assert main(["certs", "show", "--json"]) == 0
    shown = {one["file"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(shown) == {"ca.crt", "server.crt", "client.crt"}
    assert shown["client.crt"]["identity"] == "spiffe://pmoves-mesh/service/client-alpha"
    assert {"alpha", "localhost", "127.0.0.1", "mesh.example.org"} <= set(shown["server.crt"]["names"])
    assert 396 < shown["server.crt"]["days_left"] <= 397
    held = read_certificates(tls_dir / "server.crt")[0]
    assert shown["server.crt"]["not_after"] == held.not_valid_after_utc.isoformat(timespec="seconds")


def test_show_lists_every_certificate_of_a_file_as_a_line(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    main(["certs", "init"])
    both = (tls_dir / "server.crt").read_bytes() + (tls_dir / "client.crt").read_bytes()
    (tls_dir / "both.crt").write_bytes(both)
    capsys.readouterr()
    assert main(["certs", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["FILE", "IDENTITY", "NAMES", "FROM", "UNTIL", "DAYS LEFT"]
    assert [line.split("\t")[0] for line in lines[1:]] == [
        "both.crt",
        "both.crt",
        "ca.crt",
        "client.crt",
        "server.crt",
    ]


def test_a_damaged_certificate_is_one_line_with_its_path(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    main(["certs", "init"])
    (tls_dir / "ca.crt").write_text("nothing")
    capsys.readouterr()
    assert main(["certs", "show"]) == 1
    assert capsys.readouterr().err == f"pmoves-mesh: {tls_dir / 'ca.crt'}: holds no certificate in PEM\n"


def test_without_certificates_there_is_nothing_to_show(tls_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert not tls_dir.exists()
    assert main(["certs", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
