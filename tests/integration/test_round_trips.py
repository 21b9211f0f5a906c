"""The way to a node and back, measured on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from http_support import on_both_loops
from ports import free_port

from pmoves_mesh.agent.resources.survey import round_trip_ms
from pmoves_mesh.clock import SystemClock


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@on_both_loops
async def test_a_host_that_takes_the_connection_is_measured(listening: int):
    assert 0 < await round_trip_ms("127.0.0.1", listening, SystemClock()) < 100


@on_both_loops
async def test_a_host_that_refuses_is_as_far_away_as_one_that_does_not():
    assert 0 < await round_trip_ms("127.0.0.1", free_port(), SystemClock()) < 100


@on_both_loops
async def test_a_cloud_s_own_address_is_never_asked():
    with pytest.raises(PermissionError):
        await round_trip_ms("169.254.169.254", 80, SystemClock())


@on_both_loops
async def test_a_name_that_leads_nowhere_is_an_error_and_no_measure():
    with pytest.raises(OSError):  # noqa: PT011 - what a resolver says differs
        async with asyncio.timeout(20):
            await round_trip_ms("nowhere.invalid", 80, SystemClock())
