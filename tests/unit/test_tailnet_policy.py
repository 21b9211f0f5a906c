"""The policy of `deploy/tailscale`: what it lets through is what its own tests say, and nothing more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

POLICY = Path(__file__).parents[2] / "deploy" / "tailscale" / "policy.hujson"
MESHES = ({"tag:pmoves", "tag:pmoves-hub"}, {"tag:pmoves-guest", "tag:pmoves-guest-hub"})
SYSTEM_PORTS = (22, 80, 443, 1023)
PORTS = (*SYSTEM_PORTS, 1024, 4222, 6222, 7422, 8100, 9000, 65535)


def policy() -> dict[str, Any]:
    """Reads HuJSON: JSON with comments, and commas after the last."""
    plain = re.sub(r"(?m)^\s*//.*$", "", POLICY.read_text())
    found: dict[str, Any] = json.loads(re.sub(r",(\s*[}\]])", r"\1", plain))
    return found


def lets(source: str, target: str, port: int) -> bool:
    """Returns whether any rule accepts that; what none accepts is refused."""
    for rule in policy()["acls"]:
        assert rule["action"] == "accept"
        for destination in rule["dst"]:
            tag, _, ports = destination.rpartition(":")
            if source in rule["src"] and tag == target and any(within(port, one) for one in ports.split(",")):
                return True
    return False


def within(port: int, ports: str) -> bool:
    first, _, last = ports.partition("-")
    return int(first) <= port <= int(last or first)


@pytest.mark.parametrize("test", policy()["tests"], ids=lambda test: test["src"])
def test_its_own_tests_hold(test: dict[str, Any]):
    for wanted in ("accept", "deny"):
        for destination in test[wanted]:
            tag, _, port = destination.rpartition(":")
            assert lets(test["src"], tag, int(port)) == (wanted == "accept"), destination


def test_nobody_reaches_the_other_mesh_nor_a_port_of_the_system():
    for ours, theirs in (MESHES, MESHES[::-1]):
        for source in ours:
            assert not [(tag, port) for tag in theirs for port in PORTS if lets(source, tag, port)]
            assert not [
                (tag, port) for tag in ours for port in PORTS if port < 1024 and lets(source, tag, port)
            ]


def test_every_tag_has_an_owner_and_is_tested():
    found = policy()
    tags = {tag for mesh in MESHES for tag in mesh}
    assert set(found["tagOwners"]) == tags == {test["src"] for test in found["tests"]}
    assert {owner for owners in found["tagOwners"].values() for owner in owners} == set(found["groups"])
