"""Joining: one token, one command, and a second host is in the mesh; what is wrong is one line."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hosts import Host, wait_until
from joined import OPEN, joined, knows, refused, token_of


@pytest.fixture
def hosts(real_hosts: Callable[..., list[Host]]) -> list[Host]:
    """A main host whose agent runs and can be reached, and a second one on which nothing was started."""
    main, jetson = real_hosts("main", "jetson")
    main.settings.update(OPEN)
    main.up()
    del jetson.settings["MESH_HOSTNAME"]
    return [main, jetson]


def test_a_token_is_all_that_a_second_host_needs(hosts: list[Host]):
    main, jetson = hosts
    joined(jetson, token_of(main, "--node", "jetson"))
    settings = (jetson.directory / "env.shared").read_text()
    assert "MESH_HOSTNAME=jetson" in settings
    assert re.search(r"^NATS_URL='?tls://10\.77\.0\.1:4222", settings, re.MULTILINE)
    jetson.up()
    assert jetson.run("register", "whisper", "--port", "9000", "--capability", "stt").returncode == 0
    wait_until(lambda: knows(main, "whisper"), "the main host finds the service of the second")
    found = main.json("service", "whisper")
    assert (found["node"], found["host"], found["verified"]) == ("jetson", "10.77.0.2", True)
    assert not (jetson.directory / "tls" / "ca.key").exists()
    issued = [node["name"] for node in main.json("nodes")["nodes"]]
    assert issued == ["jetson", "main"]


def test_a_token_works_once(hosts: list[Host]):
    main, jetson = hosts
    token = token_of(main)
    joined(jetson, token)
    assert "used" in refused(jetson, "join", token, "--force", "--name", "other")


def test_a_token_for_one_node_lets_no_other_in(hosts: list[Host]):
    main, jetson = hosts
    assert "orin" in refused(jetson, "join", token_of(main, "--node", "orin"), "--name", "jetson")


def test_an_expired_token_is_refused(hosts: list[Host]):
    main, jetson = hosts
    token = token_of(main, "--ttl", "1s")
    wait_until(lambda: "expired" in jetson.run("join", token, "--name", "jetson").stderr, "the token expired")


def test_a_token_that_lost_characters_is_refused_before_anything_is_sent(hosts: list[Host]):
    main, jetson = hosts
    token = token_of(main)
    assert "damaged" in refused(jetson, "join", token[:-3])
    joined(jetson, token)


def test_what_was_refused_is_an_event_of_the_mesh(hosts: list[Host]):
    main, jetson = hosts
    token = token_of(main, "--node", "orin")
    refused(jetson, "join", token, "--name", "jetson")

    def noted() -> bool:
        walked = main.run("audit", "--json")
        return '"mesh.trust.refused.v1"' in walked.stdout

    wait_until(noted, "the refusal stands in the stream")


def test_a_host_that_nobody_reaches_says_what_to_set(real_hosts: Callable[..., list[Host]]):
    (main,) = real_hosts("main")
    main.up()
    line = refused(main, "token", "create")
    assert "SERVICE_REGISTRY_HOST" in line
    assert "PMOVES_NATS_HOST" in line


def test_limits_of_a_token_hold_for_what_the_node_registers(hosts: list[Host]):
    main, jetson = hosts
    joined(jetson, token_of(main, "--node", "jetson", "--allow", "whisper-*"))
    jetson.up()
    assert jetson.run("register", "whisper-1", "--port", "9000").returncode == 0
    assert "whisper-*" in refused(jetson, "register", "hi-rag", "--port", "8086")


def test_commands_reach_an_agent_that_listens_on_one_outside_address(
    real_hosts: Callable[..., list[Host]],
):
    (main,) = real_hosts("main", SERVICE_REGISTRY_HOST="10.77.0.1", PMOVES_NATS_HOST="10.77.0.1")
    assert "https://10.77.0.1:8100" in main.up()
    assert main.run("register", "whisper", "--port", "9000").returncode == 0
    assert main.json("service", "whisper")["host"] == "10.77.0.1"
