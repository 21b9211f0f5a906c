"""A leaf node as configuration, as settings, and in what an agent says of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from ports import free_port

from pmoves_mesh.agent.leaf import begin
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config, load
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.errors import ConfigError
from pmoves_mesh.server.access import Access, Member
from pmoves_mesh.server.leaf import Remote, Spoke, leaf_pins, spoke_block, taken_block
from pmoves_mesh.server.settings import Listener, ServerFiles, render

REMOTE = Remote(
    hosts=("10.0.0.5", "fd7a::5"),
    port=7422,
    server_name="pmoves-mesh.mesh.internal",
    certificate="/data/leaf/leaf.crt",
    key="/data/identity/node.key",
    roots="/tls/ca.crt",
)


def member(kind: SignerKind, name: str, pin: str) -> Member:
    return Member(identity=spiffe_id("pmoves-mesh", kind, name), kind=kind, name=name, pins=(pin * 64,))


def settings(directory: Path, **changed: str) -> Config:
    wanted = {"SERVICE_MODE": "standalone", "NATS_EXTERNAL_URL": "tls://10.0.0.5", "PMOVES_LEAF": "1"}
    return load({**wanted, **changed}, directory)


def test_only_services_that_are_leaf_nodes_may_log_in_at_the_port_for_them():
    members = (
        member("node", "leaf-a", "a"),
        member("service", "whisper", "b"),
        member("service", "leaf-edge", "c"),
    )
    access = Access(mesh="pmoves-mesh", owner=members[0].identity, anchor_pem="", members=members)
    assert list(leaf_pins(access)) == ["c" * 64]


def test_the_hubs_block_has_no_authorization_which_would_give_all_rights():
    block = taken_block("::", 7422, "    tls {}\n")
    assert 'listen: "[::]:7422"' in block
    assert "authorization" not in block


def test_the_name_in_the_hubs_certificate_comes_after_its_addresses():
    block = spoke_block(Spoke(domain="edge", remote=REMOTE))
    places = [
        block.index(f'"tls://{place}:7422"')
        for place in ("10.0.0.5", "[fd7a::5]", "pmoves-mesh.mesh.internal.")
    ]
    assert places == sorted(places)
    assert "no_randomize: true" in block


def test_a_server_that_cannot_log_in_yet_has_its_domain_and_no_remote(tmp_path: Path):
    text = render(ServerFiles(tmp_path), "edge", Listener(port=4222, spoke=Spoke(domain="edge")))
    assert 'domain: "edge"' in text
    assert "leafnodes" not in text
    plain = render(ServerFiles(tmp_path), "edge", Listener(port=4222))
    assert "domain" not in plain
    assert "http" not in plain


@pytest.mark.parametrize("own", ["nats://127.0.0.1:4222", "nats://localhost:4222", "tls://10.0.0.5:4222", ""])
def test_nats_url_may_name_the_hosts_own_server_or_the_hub_and_the_agent_follows_the_hub(
    tmp_path: Path, own: str
):
    config = settings(tmp_path, NATS_URL=own)
    assert config.nats_servers == ("tls://10.0.0.5:4222",)
    assert config.visits_hub
    assert not config.embedded


def test_a_node_whose_name_leaves_no_room_for_its_leaf_nodes_is_refused(tmp_path: Path):
    assert settings(tmp_path, MESH_HOSTNAME="a" * 58).leaf
    with pytest.raises(ConfigError, match="at most 58"):
        settings(tmp_path, MESH_HOSTNAME="a" * 59)


class Sundial(SystemClock):
    """A clock that a test turns on."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


async def test_a_hub_that_is_not_reached_for_30_seconds_is_warned_of(tmp_path: Path):
    clock, config = Sundial(), settings(tmp_path, PMOVES_NATS_PORT=str(free_port()))
    async with AsyncExitStack() as stack:
        found = await begin(config, clock, stack)
        assert found is not None
        assert found.warnings() == []
        clock.ahead_s = 31
        (line,) = found.warnings()
        assert line.startswith("this host's NATS server has not reached the hub for 31 s")


async def test_where_none_is_wanted_there_is_none(tmp_path: Path):
    async with AsyncExitStack() as stack:
        assert await begin(load({}, tmp_path), SystemClock(), stack) is None
