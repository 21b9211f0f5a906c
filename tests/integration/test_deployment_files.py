"""What is in deploy/, held to what the programs that read it expect, and to what the mesh promises."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from agents import ROOT, Mesh, mesh_in
from nats_server import BINARY
from pages import snippets

from pmoves_mesh.agent.containers.inspected import Container
from pmoves_mesh.agent.containers.labels import Here, wanted_by
from pmoves_mesh.settings import SETTINGS

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKED = {"nats", "agents", "workers", "orchestration", "data", "monitoring"}
ALONE = {"standalone", "discovery"}
LABELLED = sorted(name for name, service in SERVICES.items() if "labels" in service)
PASSWORDS = re.compile(r"PASSWORD|AUTH|KEY|TOKEN")


def expanded(text: str, **environment: str) -> str:
    """Returns a text with its variables as Compose replaces them, `$$` being a dollar."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, operator, default = found[1], found[2] or "", found[3] or ""
        given = environment.get(name)
        return default if given is None or (operator == ":-" and not given) else given

    return re.sub(r"\$\$|\$\{(\w+)(?:(:?-)([^}]*))?\}", value, text)


def image_of(name: str) -> str:
    return expanded(SERVICES[name]["image"])


# Compose


def test_every_profile_of_a_docked_and_of_a_lone_host_has_its_services():
    found = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert found == DOCKED | ALONE
    assert set(SERVICES["agent"]["profiles"]) == DOCKED
    assert set(SERVICES["agent-standalone"]["profiles"]) == ALONE
    assert SERVICES["agent-standalone"]["environment"]["SERVICE_MODE"] == "standalone"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_public_image_is_pinned_and_every_other_is_a_setting(name: str):
    written, image = SERVICES[name]["image"], image_of(name)
    if written == image:
        assert re.search(r":v?[A-Z.]*\d+[.-]\d+", image), image
        assert "latest" not in image
    else:
        assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[^}]+\}", written)
        assert image.startswith(("ghcr.io/powerfulmoves/pmoves-", "pmoves-mesh:"))


@pytest.mark.parametrize("name", LABELLED)
def test_every_label_is_understood_and_every_labelled_port_is_published(name: str):
    service = SERVICES[name]
    ports: dict[str, list[dict[str, str]]] = {}
    for mapping in service["ports"]:
        address, outside, inside = expanded(mapping, PMOVES_PUBLISH="100.64.0.7").rsplit(":", 2)
        ports[f"{inside}/tcp"] = [{"HostIp": address, "HostPort": outside}]
    said = {"Name": f"/{name}", "Config": {"Labels": service["labels"]}, "NetworkSettings": {"Ports": ports}}
    one = msgspec.convert(said, Container)
    wanted = wanted_by(one, one, Here("100.64.0.7", "docked"))
    assert wanted.service == name
    assert not wanted.unknown
    assert wanted.registration.port
    assert len(wanted.registration.ports or ()) == len(ports) - 1


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_port_is_published_beyond_loopback_unless_somebody_says_where(name: str):
    assert all(expanded(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_password_has_a_default(name: str):
    environment = SERVICES[name].get("environment", {})
    given = {key: expanded(value) for key, value in environment.items() if PASSWORDS.search(key)}
    allowed = {"", "neo4j/", "true", "false", "Viewer"}
    assert set(given.values()) <= allowed, given


def test_everything_that_a_service_mounts_from_here_is_here():
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    sources = [expanded(mount).split(":")[0] for mount in mounts]
    assert [source for source in sources if source.startswith(".") and not (DEPLOY / source).exists()] == []
    named = {source for source in sources if not source.startswith((".", "/"))}
    assert named == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", ["agent", "agent-standalone"])
def test_the_agent_can_write_to_its_volume_alone_and_is_told_what_it_knows(name: str):
    agent = SERVICES[name]
    assert (agent["read_only"], agent["cap_drop"], agent["network_mode"]) == (True, ["ALL"], "host")
    assert set(agent["environment"]) <= {setting.name for setting in SETTINGS}


def test_compose_has_nothing_to_say_against_the_file():
    asked = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if (shutil.which("docker"))
        else None
    )
    if asked is None or asked.returncode != 0:
        pytest.skip("no docker compose is installed")
    profiles = [word for profile in sorted(DOCKED | ALONE) for word in ("--profile", profile)]
    done = subprocess.run(
        ["docker", "compose", "-f", DEPLOY / "docker-compose.yml", *profiles, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("runtime", ["up", "down"])
def test_make_starts_and_stops_the_containers_with_the_profiles_of_the_mode(runtime: str):
    def said(*words: str) -> str:
        done = subprocess.run(
            ["make", "--dry-run", runtime, "RUNTIME=docker", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "docker compose" in said()
    assert "COMPOSE_PROFILES=nats,monitoring" in said()
    assert "COMPOSE_PROFILES=standalone" in said("SERVICE_MODE=standalone")
    assert "COMPOSE_PROFILES=data,agents" in said("PROFILES=data,agents")
    assert "pip" not in said()


# NATS, Prometheus, Grafana, Loki


def test_nats_has_nothing_to_say_against_its_file_and_writes_before_it_acknowledges():
    path = DEPLOY / "nats" / "compose.conf"
    done = subprocess.run([BINARY, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sync_interval: always" in path.read_text()


def test_prometheus_has_nothing_to_say_against_its_files_and_they_are_those_of_the_page():
    settings, rules = snippets("prometheus.md", "yaml")[:2]
    assert settings in (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert (DEPLOY / "prometheus" / "mesh-rules.yml").read_text() == rules
    if shutil.which("promtool") is None:
        pytest.skip("no promtool is installed")
    done = subprocess.run(
        ["promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "pmoves-mesh.json").read_text())


@pytest.fixture
def mesh(tmp_path: Path) -> Any:
    with mesh_in(tmp_path) as made:
        yield made


def test_every_metric_on_the_dashboard_is_one_that_an_agent_has(mesh: Mesh):
    exposed = mesh.started("alpha").get("/metrics").text
    known = set(re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE)) | set(
        re.findall(r"^(\w+)[{ ]", exposed, re.MULTILINE)
    )
    histograms = re.findall(r"^# TYPE (\w+) histogram", exposed, re.MULTILINE)
    known |= {f"{name}_{part}" for name, part in product(histograms, ("bucket", "count", "sum"))}
    asked = {
        name
        for panel in BOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"pmoves_mesh_\w+", target["expr"])
    }
    assert len(asked) > 12
    assert asked <= known, asked - known


def test_the_dashboard_asks_the_sources_that_are_provisioned_and_its_panels_do_not_overlap():
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/mesh.yml").read_text())
    known = {(source["type"], source["uid"]) for source in provisioned["datasources"]}
    asked = {
        (target["datasource"]["type"], target["datasource"]["uid"])
        for panel in BOARD["panels"]
        for target in panel["targets"]
    }
    assert asked == known
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x, y in product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(taken) == len(set(taken))
    boards = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/mesh.yml").read_text())
    path = boards["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]


def test_loki_listens_on_loopback_where_its_writer_and_grafana_look():
    loki = yaml.safe_load((DEPLOY / "loki" / "loki.yml").read_text())
    url = f"http://{loki['server']['http_listen_address']}:{loki['server']['http_listen_port']}"
    assert url == "http://127.0.0.1:3100"
    assert f'url = "{url}/loki/api/v1/push"' in (DEPLOY / "loki" / "config.alloy").read_text()
    assert url in (DEPLOY / "grafana/provisioning/datasources/mesh.yml").read_text()


# Tailscale


def policy() -> dict[str, Any]:
    """Returns the policy as JSON: its comments and last commas are what HuJSON allows beyond it."""
    text = re.sub(r"^\s*//.*$", "", (DEPLOY / "tailscale" / "policy.hujson").read_text(), flags=re.MULTILINE)
    found: dict[str, Any] = json.loads(re.sub(r",(\s*[\]}])", r"\1", text))
    return found


def reaches(source: str, target: str, port: int, protocol: str = "tcp") -> bool:
    """Returns whether the policy lets one tag reach a port of another."""

    def covers(destination: str) -> bool:
        tag, _, ports = destination.rpartition(":")
        ranges = (item.partition("-") for item in ports.split(","))
        return tag == target and any(int(low) <= port <= int(high or low) for low, _, high in ranges)

    return any(
        rule["action"] == "accept"
        and rule["proto"] == protocol
        and source in rule["src"]
        and any(map(covers, rule["dst"]))
        for rule in policy()["acls"]
    )


def test_the_policy_passes_its_own_tests():
    for test in policy()["tests"]:
        for wanted, places in ((True, test["accept"]), (False, test["deny"])):
            for place in places:
                tag, _, port = place.rpartition(":")
                assert reaches(test["src"], tag, int(port), test["proto"]) is wanted, (test["src"], place)


def test_guests_and_the_mesh_reach_nothing_of_each_other():
    mesh_tags, guests = ("tag:pmoves", "tag:pmoves-hub"), ("tag:pmoves-guest", "tag:pmoves-guest-hub")
    for one, other in (*product(mesh_tags, guests), *product(guests, mesh_tags)):
        assert not any(reaches(one, other, port) for port in range(1, 65536, 7)), (one, other)
        assert not any(reaches(one, other, port, "udp") for port in (53, 8600)), (one, other)


def test_every_port_that_is_published_for_a_service_is_reached_from_the_mesh_and_ssh_is_not():
    for name in LABELLED:
        for mapping in SERVICES[name]["ports"]:
            port = int(expanded(mapping).split(":")[1])
            assert reaches("tag:pmoves", "tag:pmoves", port), (name, port)
    assert not reaches("tag:pmoves", "tag:pmoves", 22)
    assert set(policy()["tagOwners"]) == {
        tag for rule in policy()["acls"] for tag in rule["src"] if "tag:" in tag
    }


def test_headscale_has_nothing_to_say_against_the_policy():
    if shutil.which("headscale") is None:
        pytest.skip("no headscale is installed")
    done = subprocess.run(
        ["headscale", "policy", "check", "--file", DEPLOY / "tailscale" / "policy.hujson"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
