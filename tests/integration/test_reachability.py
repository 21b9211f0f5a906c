"""Whether others reach the address that a node announces: tried by other nodes, told by the one concerned."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in

from pmoves_mesh.agent.trust.joining import own_addresses

NOBODY = "2001:db8::9"
"""An address of no host. Source: RFC 3849."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        yield mesh


def warned(agent: AgentProcess, text: str) -> bool:
    return any(text in line for line in agent.registry["warnings"])


def test_a_node_whose_address_no_other_reaches_says_so_and_by_whom(mesh: Mesh):
    mesh.started("beta", ANNOUNCE_SEC="1")
    alpha = mesh.started("alpha", ANNOUNCE_SEC="1", PMOVES_ADVERTISE_HOST=NOBODY)
    eventually(lambda: warned(alpha, f"node beta does not reach this node at {NOBODY} ("), "alpha says so")
    assert alpha.registry["reached_from"]["beta"]
    assert alpha.logged("another node does not reach this one", by="beta", host=NOBODY)


def test_loopback_in_a_mesh_of_several_machines_is_no_address_either(mesh: Mesh):
    beta = mesh.started("beta", ANNOUNCE_SEC="1")
    mesh.started("alpha", ANNOUNCE_SEC="1", PMOVES_ADVERTISE_HOST=NOBODY)
    said = "node alpha does not reach this node at 127.0.0.1 (loopback is another machine here)"
    eventually(lambda: warned(beta, said), "beta says so")


def test_a_node_that_is_reached_knows_from_whom_and_warns_of_nothing(mesh: Mesh):
    address = next((one for one in own_addresses() if ip_address(one).version == 4), None)
    if address is None:
        pytest.skip("this machine has no address beyond loopback")
    mesh.started("beta", ANNOUNCE_SEC="1")
    alpha = mesh.started("alpha", ANNOUNCE_SEC="1", PMOVES_ADVERTISE_HOST=address)
    eventually(lambda: alpha.registry["reached_from"] == {"beta": ""}, "beta reaches alpha")
    assert not warned(alpha, "does not reach")


def test_a_name_that_no_host_can_have_is_said_to_be_none_and_harms_nobody(mesh: Mesh):
    beta = mesh.started("beta", ANNOUNCE_SEC="1")
    name = f"{'a' * 64}.example"
    alpha = mesh.started("alpha", ANNOUNCE_SEC="1", PMOVES_ADVERTISE_HOST=name)
    eventually(lambda: warned(alpha, f"at {name} (its host has no address)"), "alpha says so")
    assert beta.is_ready()


def test_a_mesh_on_one_machine_tries_nothing(mesh: Mesh):
    mesh.started("beta", ANNOUNCE_SEC="1")
    alpha = mesh.started("alpha", ANNOUNCE_SEC="1")
    mesh.agree()
    assert alpha.registry["reached_from"] == {}
