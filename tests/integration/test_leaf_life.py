"""The life of a leaf node: begun without a hub, renewed, revoked, taken over, and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import DEADLINE_S, AgentProcess, eventually
from cryptography import x509
from leaf_support import Edge, Hub, client_at
from nats.js.api import StreamConfig

from pmoves_mesh.server.child import command_of
from pmoves_mesh.store.ledger import LEDGER_FILE, Ledger


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        yield hub.ready()


def joined(hub: Hub, directory: Path, node: str = "edge", **settings: str) -> Edge:
    edge = Edge(directory / node, hub, node, **settings)
    edge.join(hub)
    return edge


def refuses_leaf(hub: Hub) -> bool:
    return any("lid:" in line and "not pinned" in line for line in hub.server_log.splitlines())


def certificate_of(edge: Edge) -> x509.Certificate:
    return x509.load_pem_x509_certificate((edge.data_dir / "leaf" / "leaf.crt").read_bytes())


async def test_services_of_the_host_are_not_kept_waiting_by_a_hub_and_ca_that_are_away(
    hub: Hub, tmp_path: Path
):
    edge = joined(hub, tmp_path)
    hub.terminate()
    with edge:
        assert not (edge.data_dir / "leaf" / "leaf.crt").exists()
        async with client_at(edge.local_url) as local:
            pid = edge.server_pid
            streams = local.jetstream(timeout=5)
            await streams.add_stream(StreamConfig(name="NOTES", subjects=["notes.>"]))
            assert (await streams.publish("notes.one", b"1")).domain == "edge"
            hub.restart()
            edge.is_leaf()
            assert edge.server_pid == pid
            assert local.stats["reconnects"] == 0
            assert (await streams.stream_info("NOTES")).state.messages == 1


async def test_a_revoked_node_loses_its_leaf_node_and_gets_another_when_it_joins_anew(
    hub: Hub, tmp_path: Path
):
    with joined(hub, tmp_path) as edge, joined(hub, tmp_path, "other") as other:
        edge.is_leaf()
        other.is_leaf()
        old = certificate_of(edge)
        done = hub.run("certs", "revoke", "edge", "--reason", "stolen")
        assert done.returncode == 0, done.stderr
        eventually(lambda: not edge.joins_hub(), "its leaf node is shut out")
        other.is_leaf()
        eventually(lambda: refuses_leaf(hub), "it is refused when it tries again")
        async with client_at(edge.local_url) as local:
            await local.flush()
        edge.terminate()
        edge.join(hub)
        edge.restart()
        edge.is_leaf()
        assert certificate_of(edge).public_key() != old.public_key()


def test_only_a_node_itself_may_have_its_leaf_node_and_with_its_own_key_alone(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        edge.is_leaf()
        edge.ready()
        for service, why in (("leaf-main", "no other can have it"), ("leaf-edge", "the key of node edge")):
            done = edge.run("certs", "issue", "--service", service)
            assert done.returncode == 1
            assert why in done.stderr
    assert (
        certificate_of(edge).public_key()
        == x509.load_pem_x509_certificate((edge.data_dir / "identity" / "node.crt").read_bytes()).public_key()
    )
    ledger = Ledger(hub.tls_dir / LEDGER_FILE)
    assert {one.name for one in ledger.certificates(kind="service")} >= {"leaf-edge"}


def test_a_renewed_certificate_and_a_rotated_ca_are_taken_up_without_a_restart(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        edge.ready()
        edge.is_leaf()
        old, pid, mark = certificate_of(edge), edge.server_pid, len(edge.server_log)
        done = hub.run("certs", "rotate")
        assert done.returncode == 0, done.stderr
        eventually(
            lambda: certificate_of(edge).issuer != old.issuer or certificate_of(edge) != old, "renewed"
        )
        mark = len(edge.server_log)
        eventually(lambda: "Reloaded server configuration" in edge.server_log[mark - 2000 :], "told")
        os.kill(int((hub.data_dir / "nats" / "nats-server.pid").read_text()), signal.SIGKILL)
        eventually(lambda: "connection created" in edge.server_log[mark:], "it joins with the new one")
        edge.is_leaf()
        assert edge.server_pid == pid


def test_a_hub_that_is_given_by_its_name_is_looked_up(hub: Hub, tmp_path: Path):
    edge, url = joined(hub, tmp_path), f"tls://localhost:{hub.port}"
    edge.settings |= {"NATS_EXTERNAL_URL": url, "NATS_URL": url}
    with edge:
        edge.is_leaf()
        edge.terminate()
        edge.start()
        edge.is_leaf()


def test_the_server_outlives_a_killed_agent_and_is_taken_over_by_the_next(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        edge.is_leaf()
        pid = edge.server_pid
        edge.kill()
        assert command_of(pid)
        edge.restart()
        assert edge.server_pid == pid
        edge.is_leaf()


def test_down_stops_the_server_of_an_agent_that_runs_and_of_one_that_was_killed(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        pid = edge.server_pid
        done = edge.run("down")
        assert (done.returncode, "and its nats-server" in done.stdout) == (0, True)
        assert not command_of(pid)
        edge.wait()
        edge.start()
        pid = edge.server_pid
        edge.kill()
        done = edge.run("down")
        assert done.stdout == f"stopped the nats-server (pid {pid}) that the agent left\n"
        assert not command_of(pid)


def test_doctor_says_that_the_server_is_cut_off_or_not_there_and_what_to_do(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        edge.is_leaf()
        hub.terminate()
        eventually(lambda: not edge.joins_hub(), "it notices")
        said = leaf_line(edge)
        assert said["severity"] == "warning"
        assert "cut off from the hub" in said["what"]
        assert str(hub.leaf_port) in said["remedy"]
    said = leaf_line(edge)
    assert said["severity"] == "alarm"
    assert f"no NATS server runs at port {edge.port}" in said["what"]
    assert "pmoves-mesh up" in said["remedy"]


def leaf_line(edge: Edge) -> dict[str, str]:
    (found,) = [
        one
        for one in json.loads(edge.run("doctor", "--json").stdout)["findings"]
        if one["check"] == "leaf node"
    ]
    return dict(found)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_hub_listens_for_leaf_nodes_once_there_is_one(hub: Hub, tmp_path: Path):
    assert not listens(hub.leaf_port)
    with joined(hub, tmp_path) as edge:
        edge.is_leaf()
        assert listens(hub.leaf_port)


def test_a_taken_port_for_leaf_nodes_keeps_nobody_else_from_the_hub(hub: Hub, tmp_path: Path):
    with joined(hub, tmp_path) as edge:
        edge.is_leaf()
        hub.terminate()
        with socket.create_server(("0.0.0.0", hub.leaf_port)):
            hub.restart()
            (line,) = hub.logged("leaf nodes are not taken")[:1]
            assert f"port {hub.leaf_port} is taken by" in line["detail"]
            assert "PMOVES_LEAF_PORT" in line["detail"]
            eventually(edge.is_ready, "the host is in the mesh", DEADLINE_S)
        hub.terminate()
        hub.restart()
        edge.is_leaf()


def test_a_server_that_took_no_leaf_nodes_is_started_anew_to_take_them(hub: Hub, tmp_path: Path):
    port, hub.settings["PMOVES_LEAF_PORT"] = hub.leaf_port, "0"
    hub.terminate()
    hub.restart()
    with joined(hub, tmp_path) as edge:
        eventually((edge.data_dir / "leaf" / "leaf.crt").exists, "it has its identity", DEADLINE_S)
        hub.kill()
        hub.settings["PMOVES_LEAF_PORT"] = str(port)
        hub.restart()
        edge.is_leaf()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"SERVICE_MODE": "docked"}, "SERVICE_MODE=standalone"),
        ({"NATS_EXTERNAL_URL": ""}, "NATS_EXTERNAL_URL"),
        ({"NATS_EXTERNAL_URL": "nats://hub"}, "tls://"),
        ({"NATS_URL": "nats://elsewhere:4222"}, "no other server in NATS_URL"),
        ({"NATS_TOKEN": "secret"}, "no login"),
        ({"PMOVES_LEAF_PORT": "0"}, "PMOVES_LEAF_PORT"),
        ({"MESH_HOSTNAME": "a" * 59}, "at most 58 characters"),
    ],
)
def test_settings_that_make_no_leaf_node_stop_the_start_with_one_line(
    tmp_path: Path, settings: dict[str, str], why: str
):
    right = {"SERVICE_MODE": "standalone", "NATS_EXTERNAL_URL": "tls://hub", "PMOVES_LEAF_PORT": "7422"}
    agent = AgentProcess(tmp_path, "edge", "", **{**right, "PMOVES_LEAF": "1", **settings})
    done = agent.run("agent")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "PMOVES_LEAF=" in done.stderr
    assert why in done.stderr
