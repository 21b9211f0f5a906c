"""The image of the agent: built as its recipe says, and three of it as a mesh on a Docker network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engines import DOCKER_SOCKET, labelled, running, unique
from hosts import ROOT, wait_until
from images import AGENT, BASE, LOCK, base_problem, build_agent
from nats_server import build_image, engine_problem

# Not of making the images, which have limits too.
pytestmark = pytest.mark.timeout(180, func_only=True)

OVER_BASE_BYTES_MAX = 150_000_000
RECIPE = (ROOT / "deploy" / "Dockerfile").read_text()
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real engine that has the image of the agent."""
    if problem := engine_problem():
        pytest.skip(problem)
    import docker  # noqa: PLC0415 - it is needed only where there is an engine

    made = docker.from_env(timeout=150)
    try:
        if problem := base_problem(made) or build_agent(made, tmp_path_factory.mktemp("wheels")):
            pytest.skip(problem)
        yield made
    finally:
        made.close()


@dataclass
class Contained:
    """An agent in a container; it may write to its volume and nowhere else."""

    container: Any

    def run(self, *arguments: str) -> tuple[int, str]:
        """Runs a command of the program beside the agent; returns its exit code and what it printed."""
        done = self.container.exec_run(["pmoves-mesh", *arguments], demux=True)
        out, error = done.output
        return done.exit_code, (out or b"").decode() + (
            "" if done.exit_code == 0 else (error or b"").decode()
        )

    def shows(self, *arguments: str) -> Any:
        code, text = self.run(*arguments, "--json")
        return json.loads(text) if code == 0 else None

    def finds(self, service: str) -> list[str]:
        """Returns the nodes on which a service can be discovered."""
        found = self.shows("discover", service) or {"services": []}
        return sorted(one["node"] for one in found["services"])

    def sees(self, node: str) -> str:
        """Returns the status of a node as this one sees it."""
        found = (self.shows("nodes") or {"nodes": []})["nodes"]
        return next((one["status"] for one in found if one["name"] == node), "unknown")

    @property
    def health(self) -> str:
        self.container.reload()
        return str(self.container.attrs["State"]["Health"]["Status"])


@pytest.fixture
def network(client: Any) -> Iterator[Any]:
    made = client.networks.create(unique("mesh"), driver="bridge")
    yield made
    made.remove()


@pytest.fixture
def contained(client: Any, network: Any) -> Iterator[Callable[..., Contained]]:
    """Starts agents; with a token, they join with it first."""
    with ExitStack() as stack:

        def start(node: str, token: str = "", **settings: str) -> Contained:
            volume = client.volumes.create(unique(node))
            stack.callback(volume.remove, force=True)
            where = {
                "network": network.name,
                "volumes": {volume.name: {"bind": "/data", "mode": "rw"}},
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges"],
                "tmpfs": {"/tmp": ""},  # noqa: S108 - the container's own
                "hostname": node,
            }
            if token:
                client.containers.run(AGENT, ["join", token], remove=True, **where)
            container = client.containers.run(
                AGENT,
                detach=True,
                environment={"PMOVES_LEASE_TTL_S": "2", **settings},
                healthcheck={"interval": SECOND_NS},
                **where,
            )
            stack.callback(container.remove, force=True)
            agent = Contained(container)
            wait_until(
                lambda: agent.health == "healthy", f"{node} is healthy: {container.logs()[-2000:]}", 40
            )
            return agent

        yield start


def test_the_image_adds_less_than_150_mb_to_its_base_and_runs_as_nobody_in_particular(client: Any):
    image, base = client.images.get(AGENT), client.images.get(BASE)
    assert image.attrs["Size"] - base.attrs["Size"] < OVER_BASE_BYTES_MAX
    config = image.attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"] == ["CMD", "pmoves-mesh", "status"]
    assert list(config["Volumes"]) == ["/data"]
    assert client.containers.run(AGENT, ["version"], remove=True, read_only=True).startswith(b"pmoves-mesh ")


def test_three_agents_on_a_network_find_each_others_services_and_one_that_is_cut_off_returns(
    contained: Callable[..., Contained], network: Any
):
    hub = contained("hub", SERVICE_REGISTRY_HOST="0.0.0.0", PMOVES_NATS_HOST="0.0.0.0")
    code, token = hub.run("token", "create", "--node", "jetson")
    assert code == 0, token
    jetson = contained("jetson", token.strip())
    vps = contained("vps", hub.run("token", "create", "--node", "vps")[1].strip())
    agents = (hub, jetson, vps)

    code, said = jetson.run("register", "whisper", "--port", "9000", "--capability", "stt")
    assert code == 0, said
    wait_until(lambda: all(agent.finds("stt") == ["jetson"] for agent in agents), "all find it", 20)

    jetson.container.reload()
    address = jetson.container.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
    network.disconnect(jetson.container)
    wait_until(lambda: hub.sees("jetson") == vps.sees("jetson") == "lost", "the others see it leave", 30)
    assert hub.finds("stt") == vps.finds("stt") == []
    assert [one["name"] for one in jetson.shows("services")["services"]] == ["whisper"]

    network.connect(jetson.container, ipv4_address=None)
    jetson.container.reload()
    assert jetson.container.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"] == address
    wait_until(lambda: hub.sees("jetson") == vps.sees("jetson") == "alive", "the others see it return", 40)
    wait_until(lambda: all(agent.finds("stt") == ["jetson"] for agent in agents), "all find it again", 20)

    jetson.container.stop(timeout=10)
    jetson.container.reload()
    assert jetson.container.attrs["State"]["ExitCode"] == 0
    wait_until(lambda: hub.sees("jetson") == "left", "it says goodbye", 10)


def test_an_agent_in_a_container_registers_the_others_of_its_host(client: Any):
    build_image()
    service, group = unique("beside"), DOCKER_SOCKET.stat().st_gid
    agent = Contained(
        client.containers.run(
            AGENT,
            detach=True,
            read_only=True,
            cap_drop=["ALL"],
            group_add=[group],
            volumes={str(DOCKER_SOCKET): {"bind": str(DOCKER_SOCKET), "mode": "rw"}},
        )
    )

    def seen() -> list[str]:
        found = agent.shows("services") or {"services": []}
        return [one["health_status"] for one in found["services"] if one["name"] == service]

    try:
        with running(client, labels=labelled(service), ports={"4222": None}):
            wait_until(lambda: seen() == ["healthy"], "it is registered", 30)
        wait_until(lambda: not seen(), "it is gone", 15)
    finally:
        agent.container.remove(force=True, v=True)


def test_an_agent_writes_to_its_volume_and_nowhere_else(contained: Callable[..., Contained]):
    agent = contained("alone")
    changed = {change["Path"] for change in agent.container.diff() or ()}
    assert changed <= {"/data", "/tmp"}  # noqa: S108 - the container's own
    assert agent.container.exec_run(["touch", "/opt/pmoves-mesh/new"]).exit_code != 0


@pytest.mark.usefixtures("package_index")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_there_is_a_wheel_of_every_pinned_package_for_both_machines(machine: str, tmp_path: Path):
    version = re.search(r"^ARG BASE_IMAGE=python:(3\.\d+)\.\d+-slim-\w+$", RECIPE, re.MULTILINE)
    assert version is not None, "the base is pinned"
    platforms = [
        f"--platform={tag}_{machine}" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
    ]
    asked = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                "--no-deps",
            ),
            *("--target", tmp_path, "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", version[1], *platforms, "--require-hashes", "--requirement", LOCK),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr


def test_no_step_of_the_recipe_needs_more_than_a_plain_builder():
    assert not re.search(r"^RUN .*--mount|^COPY .*--chmod|<<", RECIPE, re.MULTILINE)
    assert RECIPE.count("\nFROM ") == 2
    assert "--require-hashes" in RECIPE
