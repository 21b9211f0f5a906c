"""`first-run`: hosts with nothing but the program become a mesh of several, and may run it again."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hosts import Host, wait_until
from joined import token_of

pytestmark = pytest.mark.timeout(180)

NO_TAILSCALE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MESH_NETWORK_MODE": "both"}


def first_run(host: Host, *options: str) -> str:
    done = host.run("first-run", "--yes", *options)
    assert done.returncode == 0, done.stdout + done.stderr + host.log
    return done.stdout


def settings_of(host: Host) -> bytes:
    return (host.directory / "env.shared").read_bytes()


def alive(host: Host) -> set[str]:
    return {node["name"] for node in host.json("nodes")["nodes"] if node["status"] == "alive"}


def test_two_hosts_become_a_mesh_by_one_command_each(real_hosts: Callable[..., list[Host]]):
    main, jetson = real_hosts("main", "jetson", **NO_TAILSCALE)
    said = first_run(main)
    assert "without Tailscale" in said
    assert "pmoves-mesh token create" in said
    token = token_of(main, "--node", jetson.settings.pop("MESH_HOSTNAME"))
    assert "joined: mesh pmoves-mesh, as node jetson" in first_run(jetson, "--token", token)
    wait_until(lambda: alive(main) == alive(jetson) == {"main", "jetson"}, "both know both")
    assert main.place is not None
    written = json.loads((main.directory / "data" / "mesh_config.json").read_text())
    assert written["nats_external_url"] == f"tls://{main.place.address}:4222"

    for host in (main, jetson):
        done = host.run("registry", "sync")  # neither needs more rights on NATS for it than it has
        assert done.returncode == 0, done.stderr

    for host, options in ((main, ()), (jetson, ("--token", token))):
        before, pid = settings_of(host), host.pid
        assert "already running" in first_run(host, *options)
        assert (settings_of(host), host.pid) == (before, pid)


def test_a_host_that_ran_for_itself_alone_keeps_what_it_knows_and_lets_others_in(host: Host):
    host.settings.update(NO_TAILSCALE)
    host.up()
    assert host.run("register", "whisper", "--port", "9000").returncode == 0
    assert host.run("token", "create").returncode == 1
    assert "it is started anew" in first_run(host)
    wait_until(lambda: host.run("service", "whisper").returncode == 0, "it is known again")
    assert host.run("token", "create").returncode == 0


def test_what_a_person_has_set_stays(host: Host):
    host.settings.update(NO_TAILSCALE)
    (host.directory / "env.shared").write_text("# mine\nSERVICE_REGISTRY_HOST=127.0.0.1\n")
    done = host.run("first-run", "--yes")
    assert done.returncode == 0, done.stderr
    assert settings_of(host) == b"# mine\nSERVICE_REGISTRY_HOST=127.0.0.1\nPMOVES_NATS_HOST=0.0.0.0\n"
    assert "no other host can join: other hosts cannot reach this agent" in done.stderr


def test_a_token_of_another_mesh_changes_nothing(real_hosts: Callable[..., list[Host]]):
    main, other = real_hosts("main", "other", **NO_TAILSCALE)
    first_run(main)
    other.settings["PMOVES_MESH_NAME"] = "guests"
    first_run(other)
    done = other.run("first-run", "--yes", "--token", token_of(main))
    assert done.returncode == 1
    assert "the token is for mesh pmoves-mesh; to change: " in done.stderr
    assert alive(other) == {"other"}
