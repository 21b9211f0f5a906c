"""The life of the mesh's trust between real hosts: renewed, rotated, revoked, and never by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from hosts import Host, wait_until
from joined import OPEN, joined, knows, refused, token_of

from pmoves_mesh.clock import SystemClock

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def mesh(real_hosts: Callable[..., list[Host]]) -> list[Host]:
    """A main host that keeps the CA, and a second one that joined; both agents run."""
    main, jetson = real_hosts("main", "jetson", ANNOUNCE_SEC="1")
    main.settings.update(OPEN)
    main.up()
    del jetson.settings["MESH_HOSTNAME"]
    joined(jetson, token_of(main, "--node", "jetson"))
    jetson.up()
    return [main, jetson]


def certificate_of(host: Host) -> bytes:
    return (host.directory / "data" / "identity" / "node.crt").read_bytes()


def has_ended(host: Host) -> bool:
    end = x509.load_pem_x509_certificate(certificate_of(host)).not_valid_after_utc
    return end.timestamp() * 1000 < SystemClock().now_ms()


def connections(host: Host) -> int:
    """Returns how many sessions with NATS an agent has had in its whole life."""
    return host.log.count('"nats_connected"')


def registered(host: Host, service: str) -> None:
    done = host.run("register", service, "--port", "9000")
    assert done.returncode == 0, done.stderr


def test_certificates_are_renewed_while_everything_runs(real_hosts: Callable[..., list[Host]]):
    main, jetson = real_hosts("main", "jetson", ANNOUNCE_SEC="1")
    main.settings.update(OPEN)
    main.up()
    del jetson.settings["MESH_HOSTNAME"]
    joined(jetson, token_of(main, "--node", "jetson", "--lifetime", "15s"))
    first = certificate_of(jetson)
    jetson.up()
    wait_until(lambda: certificate_of(jetson) != first, "a new certificate came by itself", 20)
    registered(jetson, "whisper")
    wait_until(lambda: knows(main, "whisper"), "what the new certificate signs is believed")
    second = certificate_of(jetson)
    wait_until(lambda: certificate_of(jetson) != second, "and the next one too", 20)
    assert connections(jetson) == connections(main) == 1


def test_the_ca_is_replaced_in_the_running_mesh(mesh: list[Host]):
    main, jetson = mesh
    registered(jetson, "whisper")
    wait_until(lambda: knows(main, "whisper"), "the mesh works under the old CA")
    assert jetson.run("certs", "issue", "--service", "whisper").returncode == 0
    of_service = jetson.directory / "tls" / "services" / "whisper.crt"
    issued = of_service.read_bytes()
    old = (main.directory / "tls" / "ca.crt").read_text()
    done = main.run("certs", "rotate", "--timeout", "40s")
    assert done.returncode == 0, done.stderr + jetson.log
    assert "jetson  has a certificate of the new CA" in done.stdout
    assert "main  has a certificate of the new CA" in done.stdout
    new = (main.directory / "tls" / "ca.crt").read_text()
    assert new != old
    assert not (main.directory / "tls" / "ca-old.key").exists()
    wait_until(lambda: (jetson.directory / "tls" / "ca.crt").read_text() == new, "the second host follows")
    assert of_service.read_bytes() != issued, "its services have new certificates too"
    registered(jetson, "hi-rag")
    wait_until(lambda: knows(main, "hi-rag"), "the mesh works under the new CA")
    assert connections(main) == connections(jetson) == 1, "nobody's connection ended"
    assert knows(main, "whisper")
    for host in mesh:
        host.run("down")
        host.up()
    wait_until(lambda: knows(jetson, "hi-rag") and knows(main, "hi-rag"), "and after a restart of both")
    assert main.run("audit").returncode == 0


def test_a_host_that_joins_after_a_rotation_believes_the_past(
    real_hosts: Callable[..., list[Host]],
):
    main, jetson, orin = real_hosts("main", "jetson", "orin", ANNOUNCE_SEC="1")
    main.settings.update(OPEN)
    for host in (jetson, orin):
        del host.settings["MESH_HOSTNAME"]
    main.up()
    joined(jetson, token_of(main, "--node", "jetson"))
    jetson.up()
    registered(jetson, "whisper")
    assert main.run("certs", "rotate", "--timeout", "40s").returncode == 0
    joined(orin, token_of(main, "--node", "orin"))
    orin.up()
    wait_until(lambda: knows(orin, "whisper"), "the newcomer knows what was said under the old CA")
    assert orin.json("status")["registry"]["rejected"] == {}


def test_a_revoked_node_is_out_and_stays_out(mesh: list[Host]):
    main, jetson = mesh
    registered(jetson, "whisper")
    wait_until(lambda: knows(main, "whisper"), "the service is known")
    done = main.run("certs", "revoke", "jetson", "--reason", "stolen")
    assert done.returncode == 0, done.stderr
    assert not knows(main, "whisper")
    wait_until(lambda: '"nats_unavailable"' in jetson.log, "its connection is closed")
    assert "revoked" in refused(jetson, "register", "again", "--port", "9001")
    assert connections(jetson) == 1, "it never came back in"
    refused_line = refused(jetson, "certs", "issue", "--service", "spy")
    assert "revoked" in refused_line or "certificate" in refused_line
    joined_again = jetson.run("join", token_of(main, "--node", "jetson"), "--force")
    assert joined_again.returncode == 0, joined_again.stderr
    jetson.run("down")
    jetson.up()
    wait_until(lambda: knows(main, "whisper"), "with a new identity it is welcome again")


def test_a_node_that_slept_past_its_certificate_comes_back(real_hosts: Callable[..., list[Host]]):
    main, jetson = real_hosts("main", "jetson", ANNOUNCE_SEC="1")
    main.settings.update(OPEN)
    main.up()
    del jetson.settings["MESH_HOSTNAME"]
    joined(jetson, token_of(main, "--node", "jetson", "--lifetime", "10s"))
    wait_until(lambda: has_ended(jetson), "its certificate ended while it slept", 20)
    jetson.up()
    registered(jetson, "whisper")
    wait_until(lambda: knows(main, "whisper"), "it is in the mesh again")


def test_of_two_hosts_with_one_identity_the_later_one_stops(real_hosts: Callable[..., list[Host]]):
    main, jetson, copy = real_hosts("main", "jetson", "copy", ANNOUNCE_SEC="1", PMOVES_LEASE_TTL_S="3")
    main.settings.update(OPEN)
    main.up()
    for host in (jetson, copy):
        del host.settings["MESH_HOSTNAME"]
    joined(jetson, token_of(main, "--node", "jetson"))
    jetson.up()
    for name in ("data", "tls", "env.shared"):
        source, target = jetson.directory / name, copy.directory / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    (copy.directory / "data" / "agent.pid").unlink()
    copied = subprocess.run(
        [*copy.program, "agent"],
        cwd=copy.directory,
        env=copy.environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert copied.returncode == 1
    assert "jetson already runs on" in copied.stderr
    registered(jetson, "whisper")
    wait_until(lambda: knows(main, "whisper"), "the earlier one goes on")
    warnings = jetson.json("status")["registry"]["warnings"]
    assert any("ran with this node's identity" in line for line in warnings)
    walked = main.run("audit", "--json").stdout
    assert '"mesh.node.cloned.v1"' in walked


def test_a_service_gets_an_identity_through_its_local_agent(mesh: list[Host]):
    _, jetson = mesh
    done = jetson.run("certs", "issue", "--service", "whisper")
    assert done.returncode == 0, done.stderr
    files = jetson.directory / "tls" / "services"
    assert {path.name for path in files.iterdir()} == {"whisper.crt", "whisper.key"}
    assert (files / "whisper.key").stat().st_mode & 0o777 == 0o600
    shown = jetson.run("certs", "show", "--json").stdout
    assert "spiffe://pmoves-mesh/service/whisper" in shown


def test_a_guest_mesh_on_the_same_server_neither_sees_nor_disturbs_the_first(
    mesh: list[Host], tmp_path: Path
):
    main, _ = mesh
    registered(main, "secret-service")
    guest_dir = tmp_path / "guest"
    guest_dir.mkdir()
    settings = {
        "PMOVES_MESH_NAME": "guest",
        "MESH_HOSTNAME": "visitor",
        "SERVICE_REGISTRY_PORT": "8200",
        "PMOVES_DNS_PORT": "0",
        "PMOVES_NATS_DIR": str(main.directory / "data" / "nats"),
    }
    guest = Host(guest_dir, main.program, 8200, 4222, settings=settings, place=main.place)
    try:
        guest.up()
        registered(guest, "guest-service")
        assert [one["name"] for one in guest.json("services")["services"]] == ["guest-service"]
        assert "guest-service" not in main.run("services").stdout
        assert [one["name"] for one in guest.json("nodes")["nodes"]] == ["visitor"]
        assert guest.json("status")["registry"]["ca"] != main.json("status")["registry"]["ca"]
        assert connections(main) == 1, "the first mesh kept its connection"
    finally:
        guest.run("down")
    assert knows(main, "secret-service")


def test_programs_of_the_main_host_use_nats_with_the_certificate_that_init_makes(mesh: list[Host]):
    main, jetson = mesh
    assert main.run("certs", "init").returncode == 0
    listener = """
import asyncio, ssl, nats
async def main():
    context = ssl.create_default_context(cafile="tls/ca.crt")
    context.load_cert_chain("tls/client.crt", "tls/client.key")
    client = await nats.connect("tls://127.0.0.1:4222", tls=context, connect_timeout=5)
    changes = await client.subscribe("service.registry.*")
    await client.flush()
    print("listening", flush=True)
    print((await changes.next_msg(timeout=20)).subject, flush=True)
asyncio.run(main())
"""

    def listens() -> bool:
        with subprocess.Popen(
            [*main.place.inside, sys.executable, "-c", listener],
            cwd=main.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "listening\n":
                return False  # the server has not been told of the new certificate yet
            registered(jetson, "whisper")
            return process.stdout.readline() == "service.registry.registered\n"

    wait_until(listens, "a program hears what the other host registers", 30)
