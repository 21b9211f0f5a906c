"""A real Prometheus, with the settings of docs/prometheus.md, discovers and scrapes the mesh."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest
import requests
from agents import ROOT, AgentProcess, Mesh, eventually, mesh_in
from pages import snippets
from ports import free_port

pytestmark = pytest.mark.timeout(180)

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "pmoves-mesh.json"
SCRAPED = (
    "pmoves_mesh_replica_position",
    "pmoves_mesh_replica_behind_events",
    "pmoves_mesh_replica_stale_seconds",
    "pmoves_mesh_events_total",
    "pmoves_mesh_rejected_total",
    "pmoves_mesh_repairs_total",
    "pmoves_mesh_instances",
    "pmoves_mesh_probe_seconds_bucket",
    "pmoves_mesh_lease_refresh_seconds_bucket",
    "pmoves_mesh_http_request_seconds_bucket",
    "pmoves_mesh_certificate_seconds_left",
    "pmoves_mesh_outbox_depth",
    "pmoves_mesh_watchers",
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


class Prometheus:
    """A Prometheus that asks one agent, as the page says, but every second."""

    def __init__(self, directory: Path, agent: AgentProcess) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.directory = directory
        directory.mkdir()
        port = agent.url.rpartition(":")[2]
        settings, rules = snippets("prometheus.md", "yaml")
        settings = settings.replace("localhost:8100", f"localhost:{port}").replace("15s", "1s")
        (directory / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{settings}"
        )
        (directory / "mesh-rules.yml").write_text(rules)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [
            shutil.which("prometheus") or "prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        log = self.directory / "log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                eventually(self._answers, "Prometheus answers")
                yield
            finally:
                process.kill()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def get(self, path: str, **query: str) -> Any:
        return requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=5).json()["data"]

    def targets(self) -> dict[str, dict[str, str]]:
        """Returns the labels of each target that is a service, by the service's name."""
        found = self.get("targets")["activeTargets"]
        return {one["labels"]["service"]: one for one in found if one["labels"]["job"] == "services"}

    def health(self, service: str) -> str | None:
        """Returns what a target's label says of a service; None if it is no target."""
        target: Any = self.targets().get(service)
        return None if target is None else target["labels"]["health"]

    def values(self, query: str) -> list[float]:
        return [float(one["value"][1]) for one in self.get("query", query=query)["result"]]


@pytest.fixture
def watched(mesh: Mesh, tmp_path: Path) -> Iterator[tuple[AgentProcess, Prometheus]]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    ports = {name: str(free_port()) for name in ("SERVICE_REGISTRY_PORT", "PMOVES_DNS_PORT")}
    agent = mesh.started("alpha", **ports)
    prometheus = Prometheus(tmp_path / "prometheus", agent)
    with prometheus.running():
        yield agent, prometheus


def register(agent: AgentProcess, name: str, port: int, **fields: Any) -> None:
    agent.register(name, id="1", host="127.0.0.1", port=port, capabilities=["metrics"], **fields)


def test_targets_appear_turn_and_vanish(watched: tuple[AgentProcess, Prometheus]):
    agent, prometheus = watched
    port = int(agent.url.rpartition(":")[2])
    register(agent, "whisper", port, check=ttl())
    register(agent, "rag", 9001, ports={"metrics": port})
    agent.register("idle", port=9002)
    eventually(lambda: set(prometheus.targets()) == {"whisper", "rag"}, "targets appear")
    assert prometheus.health("whisper") == "unknown"
    for health in ("healthy", "unhealthy"):
        agent.request("PUT", "/api/services/whisper/health", json={"status": health})
        eventually(lambda health=health: prometheus.health("whisper") == health, f"whisper turns {health}")  # type: ignore[misc]
    eventually(lambda: prometheus.values('up{service="rag"}') == [1], "rag is scraped at its own port")
    agent.delete("/api/services/whisper")
    eventually(lambda: set(prometheus.targets()) == {"rag"}, "a target vanishes")


def ttl() -> dict[str, Any]:
    return {"type": "ttl", "ttl_s": 600}


def test_targets_outlive_the_agent_that_told_of_them(watched: tuple[AgentProcess, Prometheus]):
    agent, prometheus = watched
    register(agent, "rag", 9001)
    eventually(lambda: set(prometheus.targets()) == {"rag"}, "the target appears")
    failed = "prometheus_sd_http_failures_total"
    agent.kill()
    eventually(lambda: failures(prometheus, failed) >= 2, "Prometheus asked an agent that is not there")
    assert set(prometheus.targets()) == {"rag"}


def failures(prometheus: Prometheus, name: str) -> float:
    """Returns one of Prometheus' own counters."""
    text = requests.get(f"{prometheus.url}/metrics", timeout=5).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_an_agents_own_metrics_and_the_rules_of_the_page_are_taken(
    watched: tuple[AgentProcess, Prometheus],
):
    agent, prometheus = watched
    register(agent, "rag", 9001, check={"type": "tcp", "interval_s": 1})
    for name in SCRAPED:
        eventually(lambda name=name: bool(prometheus.values(name)), f"{name} is scraped")  # type: ignore[misc]
    eventually(
        lambda: sum(prometheus.values('pmoves_mesh_probe_seconds_count{type="tcp",outcome="failed"}')) > 0,
        "a probe that failed is counted",
    )
    groups = prometheus.get("rules")["groups"]
    assert len(groups[0]["rules"]) == 6
    eventually(
        lambda: all(
            rule["health"] == "ok" for group in prometheus.get("rules")["groups"] for rule in group["rules"]
        ),
        "every rule is evaluated",
    )
    assert not [rule for group in groups for rule in group["rules"] if rule.get("lastError")]


def test_the_service_of_the_page_is_scraped_where_the_page_says(watched: tuple[AgentProcess, Prometheus]):
    agent, prometheus = watched
    (command,) = snippets("prometheus.md", "sh")
    subprocess.run(["sh", "-c", command.replace("http://localhost:8100", agent.url)], check=True)
    eventually(lambda: "whisper" in prometheus.targets(), "the target appears")
    target: Any = prometheus.targets()["whisper"]
    assert target["scrapeUrl"] == "http://127.0.0.1:9100/api/metrics"


def test_every_panel_of_the_dashboard_has_something_to_show(watched: tuple[AgentProcess, Prometheus]):
    agent, prometheus = watched
    register(agent, "rag", 9001, check={"type": "tcp", "interval_s": 1})
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [
        (panel["title"], target["expr"].removesuffix(" > 0"))
        for panel in panels
        for target in panel["targets"]
        if target["datasource"]["type"] == "prometheus" and "pmoves_mesh_containers" not in target["expr"]
    ]
    assert len(asked) > 12
    for title, query in asked:

        def shows(query: str = query) -> bool:
            question = dns.message.make_query("alpha.node.pmoves-mesh.", "A")
            dns.query.udp(question, "127.0.0.1", timeout=5, port=int(agent.environment["PMOVES_DNS_PORT"]))
            return bool(prometheus.values(query))

        eventually(shows, f"{title}: {query}")
