"""The addresses that a node announces: a setting, else Tailscale's, else the one used towards NATS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tailscale_stub import StubTailscale, status_text

from pmoves_mesh.agent import address
from pmoves_mesh.agent.address import Advertised, advertised
from pmoves_mesh.config import load

NATS_OF_OTHERS = "nats://127.0.0.1:4222"
TAILSCALE_IP = "100.101.1.1"
LAN_IP = "192.168.1.5"
LOOPBACK = "127.0.0.1"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubTailscale:
    made = StubTailscale.made(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.directory}:/usr/bin:/bin")
    return made


@pytest.fixture(autouse=True)
def sent_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has no Tailscale, sends from one address to all others, and from loopback to itself."""

    async def source_address(host: str, port: int) -> str:
        del port
        if host == "100.100.100.100":
            return TAILSCALE_IP
        return LOOPBACK if host in {"localhost", LOOPBACK} else LAN_IP

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(address, "_source_address", source_address)
    monkeypatch.setattr(address, "_INTERFACE", Path("/nowhere"))
    monkeypatch.setattr(address, "own_addresses", lambda: (LAN_IP,))


async def announced(tmp_path: Path, **environ: str) -> Advertised:
    return await advertised(load(environ, tmp_path))


async def host_of(tmp_path: Path, **environ: str) -> str:
    return (await announced(tmp_path, **environ)).host


# Which goes first


async def test_a_setting_goes_before_everything(stub: StubTailscale, tmp_path: Path):
    del stub
    assert await host_of(tmp_path, PMOVES_ADVERTISE_HOST="10.0.0.7", NATS_URL=NATS_OF_OTHERS) == "10.0.0.7"


async def test_tailscale_goes_before_the_route_to_nats(stub: StubTailscale, tmp_path: Path):
    del stub
    assert await host_of(tmp_path, NATS_URL="nats://192.168.1.9:4222") == TAILSCALE_IP
    assert await host_of(tmp_path, NATS_URL=NATS_OF_OTHERS) == TAILSCALE_IP


@pytest.mark.parametrize("listens", ["0.0.0.0", LAN_IP])
async def test_an_own_nats_beyond_loopback_is_reached_through_tailscale(
    stub: StubTailscale, tmp_path: Path, listens: str
):
    del stub
    assert await host_of(tmp_path, PMOVES_NATS_HOST=listens) == TAILSCALE_IP


async def test_a_tailnet_of_ipv6_alone_is_used_too(stub: StubTailscale, tmp_path: Path):
    stub.says(status_text(Self={"HostName": "a", "TailscaleIPs": ["fd7a:115c:a1e0::1"]}))
    assert await host_of(tmp_path, NATS_URL=NATS_OF_OTHERS) == "fd7a:115c:a1e0::1"


async def test_in_a_container_on_the_hosts_network_tailscale_is_known_by_its_interface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    nats = "nats://192.168.1.9:4222"
    assert await host_of(tmp_path, NATS_URL=nats) == LAN_IP
    monkeypatch.setattr(address, "_INTERFACE", tmp_path)
    both = {"tailscale": TAILSCALE_IP, "nats": LAN_IP}
    assert await announced(tmp_path, NATS_URL=nats) == Advertised(TAILSCALE_IP, both)
    assert await host_of(tmp_path, NATS_URL=nats, MESH_NETWORK_MODE="nats") == LAN_IP


async def test_the_mode_nats_leaves_tailscale_alone(stub: StubTailscale, tmp_path: Path):
    found = await announced(tmp_path, NATS_URL="nats://192.168.1.9:4222", MESH_NETWORK_MODE="nats")
    assert found == Advertised(LAN_IP, {"nats": LAN_IP})
    assert stub.calls == []


@pytest.mark.parametrize("state", ["Stopped", "NeedsLogin"])
async def test_the_address_of_a_tailnet_that_is_not_up_is_not_announced(
    stub: StubTailscale, tmp_path: Path, state: str
):
    stub.says(status_text(state))
    assert await host_of(tmp_path, NATS_URL="nats://192.168.1.9:4222") == LAN_IP


async def test_a_tailscale_that_starts_with_the_host_is_waited_for(stub: StubTailscale, tmp_path: Path):
    stub.says(status_text("NoState"))
    asking = asyncio.create_task(host_of(tmp_path, NATS_URL="nats://192.168.1.9:4222"))
    async with asyncio.timeout(20):
        for state in ("Starting", "Running"):
            asked = len(stub.calls)
            while len(stub.calls) <= asked + 1:
                await asyncio.sleep(0.01)
            stub.says(status_text(state))
        assert await asking == TAILSCALE_IP


async def test_one_that_does_not_come_up_costs_a_moment_and_a_line(
    stub: StubTailscale, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(address, "_POLL_S", 0.001)
    stub.says(status_text("Starting"))
    with capture_logs() as lines:
        assert await host_of(tmp_path, NATS_URL="nats://192.168.1.9:4222") == LAN_IP
    assert [line["event"] for line in lines] == ["tailscale_not_up"]


async def test_a_tailscale_that_fails_does_not_stop_the_agent(stub: StubTailscale, tmp_path: Path):
    stub.says("", error="failed to connect to local tailscaled", code=1)
    assert await host_of(tmp_path, NATS_URL="nats://192.168.1.9:4222") == LAN_IP


# One for each network


async def test_a_node_on_two_networks_announces_its_address_on_each(stub: StubTailscale, tmp_path: Path):
    del stub
    found = await announced(tmp_path, NATS_URL="nats://192.168.1.9:4222")
    assert found.addresses == {"tailscale": TAILSCALE_IP, "nats": LAN_IP}


async def test_a_setting_leaves_the_addresses_of_the_networks_as_they_are(
    stub: StubTailscale, tmp_path: Path
):
    del stub
    found = await announced(tmp_path, NATS_URL="nats://10.0.0.9:4222", PMOVES_ADVERTISE_HOST="gw.example")
    assert found == Advertised("gw.example", {"tailscale": TAILSCALE_IP, "nats": LAN_IP})


# Never loopback, unless the mesh is on this machine


async def test_a_mesh_on_one_machine_is_on_loopback_whatever_tailscale_says(
    stub: StubTailscale, tmp_path: Path
):
    assert await announced(tmp_path) == Advertised(LOOPBACK, {})
    assert stub.calls == []


async def test_an_own_nats_that_others_reach_at_another_address_is_not_on_one_machine(tmp_path: Path):
    assert await host_of(tmp_path, NATS_EXTERNAL_URL="nats://hub.example:4222") == LAN_IP


async def test_an_own_nats_that_listens_on_one_address_is_reached_there(tmp_path: Path):
    assert await host_of(tmp_path, PMOVES_NATS_HOST="192.168.7.7") == "192.168.7.7"


async def test_an_own_nats_that_listens_everywhere_is_on_this_hosts_network(tmp_path: Path):
    assert await host_of(tmp_path, PMOVES_NATS_HOST="0.0.0.0") == LAN_IP


async def test_a_guest_is_where_the_server_of_its_host_is(tmp_path: Path):
    assert await host_of(tmp_path, PMOVES_NATS_DIR=str(tmp_path)) == LAN_IP


@pytest.fixture
def outside() -> Iterator[int]:
    """A port on which something listens for all hosts."""
    with socket.create_server(("0.0.0.0", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_nats_used_through_loopback_that_others_reach_too_is_not_on_one_machine(
    outside: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(address, "own_addresses", lambda: ("127.0.0.2",))
    assert await host_of(tmp_path, NATS_URL=f"nats://127.0.0.1:{outside}") == "127.0.0.2"


async def test_a_nats_that_listens_on_loopback_alone_is_on_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(address, "own_addresses", lambda: ("127.0.0.2",))
    with socket.create_server((LOOPBACK, 0)) as listening:
        url = f"nats://localhost:{listening.getsockname()[1]}"
        assert await announced(tmp_path, NATS_URL=url) == Advertised(LOOPBACK, {})
