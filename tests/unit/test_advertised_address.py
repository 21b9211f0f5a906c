"""The address that a node announces: a setting, else Tailscale's, else the one used towards NATS."""

from __future__ import annotations

from pathlib import Path

import pytest
from tailscale_stub import StubTailscale, status_text

from pmoves_mesh.agent import address
from pmoves_mesh.agent.address import advertised_host
from pmoves_mesh.config import load

NATS_OF_OTHERS = "nats://127.0.0.1:4222"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubTailscale:
    made = StubTailscale.made(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.directory}:/usr/bin:/bin")
    return made


async def announced(tmp_path: Path, **environ: str) -> str:
    return await advertised_host(load(environ, tmp_path))


async def test_a_setting_goes_before_everything(stub: StubTailscale, tmp_path: Path):
    assert await announced(tmp_path, PMOVES_ADVERTISE_HOST="10.0.0.7", NATS_URL=NATS_OF_OTHERS) == "10.0.0.7"
    assert stub.calls == []


async def test_tailscale_goes_before_the_route_to_nats(stub: StubTailscale, tmp_path: Path):
    del stub
    assert await announced(tmp_path, NATS_URL=NATS_OF_OTHERS) == "100.101.1.1"


async def test_a_tailnet_of_ipv6_alone_is_used_too(stub: StubTailscale, tmp_path: Path):
    stub.says(status_text(Self={"HostName": "a", "TailscaleIPs": ["fd7a:115c:a1e0::1"]}))
    assert await announced(tmp_path, NATS_URL=NATS_OF_OTHERS) == "fd7a:115c:a1e0::1"


async def test_an_own_nats_that_listens_everywhere_is_reached_through_tailscale(
    stub: StubTailscale, tmp_path: Path
):
    del stub
    assert await announced(tmp_path, PMOVES_NATS_HOST="0.0.0.0") == "100.101.1.1"


async def test_an_own_nats_on_one_address_says_which_network_the_mesh_is_on(
    stub: StubTailscale, tmp_path: Path
):
    assert await announced(tmp_path, PMOVES_NATS_HOST="192.168.1.5") == "192.168.1.5"
    assert stub.calls == []


async def test_a_mesh_on_one_machine_is_on_loopback_whatever_tailscale_says(
    stub: StubTailscale, tmp_path: Path
):
    assert await announced(tmp_path) == "127.0.0.1"
    assert stub.calls == []


async def test_the_mode_nats_leaves_tailscale_alone(stub: StubTailscale, tmp_path: Path):
    assert await announced(tmp_path, NATS_URL=NATS_OF_OTHERS, MESH_NETWORK_MODE="nats") == "127.0.0.1"
    assert stub.calls == []


@pytest.mark.parametrize("state", ["Stopped", "NeedsLogin", "Starting"])
async def test_the_address_of_a_tailnet_that_is_not_up_is_not_announced(
    stub: StubTailscale, tmp_path: Path, state: str
):
    stub.says(status_text(state))
    assert await announced(tmp_path, NATS_URL=NATS_OF_OTHERS) == "127.0.0.1"


async def test_a_tailscale_that_fails_does_not_stop_the_agent(stub: StubTailscale, tmp_path: Path):
    stub.says("", error="failed to connect to local tailscaled", code=1)
    assert await announced(tmp_path, NATS_URL=NATS_OF_OTHERS) == "127.0.0.1"


async def test_where_nats_listens_everywhere_loopback_is_not_announced_if_there_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def source_of_the_default_route(host: str, port: int) -> str:
        del host, port
        return "192.168.1.5"

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(address, "_source_address", source_of_the_default_route)
    assert await announced(tmp_path, PMOVES_NATS_HOST="0.0.0.0") == "192.168.1.5"
