from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmoves_mesh.cli.launch import check_free, stop
from pmoves_mesh.errors import StartError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_that_nobody_listens_on_is_free(listener: socket.socket):
    port = listener.getsockname()[1]
    listener.close()
    check_free("127.0.0.1", port)


def test_a_taken_port_says_by_whom_and_what_to_set(listener: socket.socket):
    port = listener.getsockname()[1]
    with pytest.raises(StartError, match=rf"^port {port} is taken by .*SERVICE_REGISTRY_PORT") as caught:
        check_free("127.0.0.1", port)
    if Path("/proc/net/tcp").exists():
        assert f"(pid {os.getpid()})" in str(caught.value)


def test_an_address_of_another_host_is_refused_with_the_reason():
    # Source: RFC 5737, TEST-NET-1: no host has it.
    with pytest.raises(StartError, match=r"SERVICE_REGISTRY_HOST=192\.0\.2\.1 cannot be listened on"):
        check_free("192.0.2.1", 40000)


def test_a_name_that_does_not_resolve_is_refused_with_the_setting():
    with pytest.raises(StartError, match=r"SERVICE_REGISTRY_HOST=no-such-host\.invalid cannot be"):
        check_free("no-such-host.invalid", 40000)


def test_an_agent_that_ended_already_counts_as_stopped(tmp_path: Path):
    beyond_every_pid = 2**22 + 1  # Linux gives out at most 2**22
    assert stop(beyond_every_pid, tmp_path / "agent.pid")
