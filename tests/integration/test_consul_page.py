"""The snippets of docs/consul.md: the commands, the Python, a real Prometheus and a real Traefik."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import consul
import pytest
import requests
from agents import AgentProcess, eventually, mesh_in
from pages import snippets
from ports import free_port

pytestmark = pytest.mark.timeout(180)

COMMANDS, SHOP = snippets("consul.md", "sh")
(PYTHON,) = snippets("consul.md", "python")
PROMETHEUS, TRAEFIK = snippets("consul.md", "yaml")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("page")) as mesh:
        yield mesh.started("alpha")


def port_of(agent: AgentProcess) -> int:
    return int(agent.url.rpartition(":")[2])


def here(agent: AgentProcess, snippet: str) -> str:
    """Returns a snippet that speaks to an agent on another port than the page does."""
    return snippet.replace("localhost:8100", f"localhost:{port_of(agent)}").replace(
        "port=8100", f"port={port_of(agent)}"
    )


def client_of(agent: AgentProcess) -> consul.Consul:
    return consul.Consul(host="127.0.0.1", port=port_of(agent))


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def running(directory: Path, *command: str) -> Iterator[None]:
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.kill()


def answered(url: str) -> str:
    """Returns the body at a URL; nothing unless it is there."""
    try:
        answer = requests.get(url, timeout=5)
    except requests.ConnectionError:
        return ""
    return answer.text if answer.ok else ""


def lacks_consul(directory: Path) -> bool:
    return "consul_sd_configs not found" in (directory / "log").read_text()


def test_the_commands_of_the_page_are_answered(agent: AgentProcess):
    for line in here(agent, COMMANDS).replace("\ncurl", "\0curl").split("\0"):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, line
        if "health/service" in line or "filter=" in line:
            assert '"whisper-1"' in done.stdout
    assert client_of(agent).agent.services() == {}


def test_the_python_of_the_page_runs(agent: AgentProcess):
    code = here(agent, PYTHON) + "assert found == []\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_prometheus_finds_its_targets_through_the_api(agent: AgentProcess, tmp_path: Path):
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "prometheus.yml").write_text(
        here(agent, PROMETHEUS).replace("- server:", "- refresh_interval: 1s\n        server:")
    )
    client = client_of(agent)
    client.agent.service.register("metered", port=port_of(agent), check=consul.Check.ttl("10m"))

    def targets() -> dict[str, Any]:
        found = requests.get(f"{url}/api/v1/targets", timeout=5).json()["data"]["activeTargets"]
        return {one["labels"]["service"]: one for one in found}

    def health() -> str:
        return str(targets().get("metered", {"labels": {"health": ""}})["labels"]["health"])

    command = (
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    )
    with running(tmp_path, *command):
        eventually(lambda: bool(answered(f"{url}/-/ready")) or lacks_consul(tmp_path), "Prometheus answers")
        if lacks_consul(tmp_path):
            pytest.skip("this Prometheus was built without consul_sd_configs, as Debian's is")
        eventually(lambda: health() == "critical", "the target appears")
        client.agent.check.ttl_pass("service:metered")
        eventually(lambda: health() == "passing", "it turns well")
        assert targets()["metered"]["scrapeUrl"].endswith(f":{port_of(agent)}/metrics")
        client.agent.service.deregister("metered")
        eventually(lambda: not targets(), "it vanishes")


@contextmanager
def shop(name: str) -> Iterator[int]:
    """A server that answers its own name; yields its port."""

    class Shop(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_traefik_routes_to_two_instances_and_drops_a_sick_one(agent: AgentProcess, tmp_path: Path):
    port = free_port()
    (tmp_path / "traefik.yml").write_text(here(agent, TRAEFIK).replace(":80", f"127.0.0.1:{port}", 1))

    def open_shop(name: str, at: int) -> None:
        command = here(agent, SHOP).replace("shop-1", name).replace("9002", str(at))
        subprocess.run(["sh", "-c", command], check=True)

    def names() -> set[str]:
        return {answered(f"http://127.0.0.1:{port}/") for _ in range(10)}

    with (
        running(tmp_path, program("traefik"), f"--configFile={tmp_path / 'traefik.yml'}"),
        shop("shop-1") as first,
    ):
        open_shop("shop-1", first)
        with shop("shop-2") as second:
            open_shop("shop-2", second)
            eventually(lambda: names() == {"shop-1", "shop-2"}, "both are routed to")
        eventually(lambda: names() == {"shop-1"}, "the one that ended is not")
    for name in ("shop-1", "shop-2"):
        client_of(agent).agent.service.deregister(name)
