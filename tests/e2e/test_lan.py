"""The hub on the local network, by mDNS: a hint where to ask; the token decides whom to believe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hosts import Host
from joined import OPEN, token_of

pytest.importorskip("zeroconf", reason="mDNS takes the package zeroconf")
pytestmark = pytest.mark.timeout(120)

NOWHERE = "10.77.0.99"
"""An address of the hosts' network that none of them has."""


def started(host: Host, **settings: str) -> Host:
    host.settings.update(OPEN, MESH_NETWORK_MODE="nats", **settings)
    host.up()
    return host


def test_a_host_whose_token_leads_nowhere_finds_the_right_hub_among_others(
    real_hosts: Callable[..., list[Host]],
):
    main, other, jetson = real_hosts("main", "other", "jetson")
    started(other)  # a mesh of the same name, with a CA of its own
    started(main, PMOVES_ADVERTISE_HOST=NOWHERE)
    token = token_of(main, "--node", jetson.settings.pop("MESH_HOSTNAME"))
    done = jetson.run("join", token)
    assert done.returncode == 0, done.stderr
    assert "looking for the CA where mDNS says: " in done.stderr
    roots = (jetson.directory / "tls" / "ca.crt").read_text()
    assert roots == (main.directory / "tls" / "ca.crt").read_text()
    assert roots != (other.directory / "tls" / "ca.crt").read_text()


def test_a_hub_with_another_ca_than_the_tokens_is_not_believed(real_hosts: Callable[..., list[Host]]):
    main, other, jetson = real_hosts("main", "other", "jetson")
    started(main)
    token = token_of(main, "--node", jetson.settings.pop("MESH_HOSTNAME"))
    main.run("down")
    started(other)
    done = jetson.run("join", token)
    assert done.returncode == 1
    assert "it has another CA than the token" in done.stderr
    assert not (jetson.directory / "tls" / "ca.crt").exists()
