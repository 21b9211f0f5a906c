"""Checks and maintenance on real agents, said on the command line and seen from another host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents import AgentProcess, Mesh, eventually, mesh_in, note
from http_support import own_address

REPORT = "/api/services/reporter/health"


def healths(agent: AgentProcess) -> dict[str, tuple[str, str]]:
    found = agent.get("/api/services").body["services"]
    return {one["name"]: (one["health_status"], one["health_output"]) for one in found}


def shown(agent: AgentProcess) -> dict[str, str | None]:
    """Returns why each service is in maintenance; None for those that are not."""
    found = agent.get("/api/services").body["services"]
    return {one["name"]: one["maintenance_reason"] if one["maintenance"] else None for one in found}


def discovered(agent: AgentProcess) -> set[str]:
    return {one["name"] for one in agent.post("/api/discover", []).body["services"]}


def said(agent: AgentProcess, *arguments: str) -> str:
    done = agent.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_every_kind_of_check_is_registered_on_the_command_line_and_seen_on_another_host(tmp_path: Path):
    flag = tmp_path / "flag"
    flag.touch()
    with mesh_in(tmp_path) as mesh:
        alpha, beta = mesh.started("alpha", PMOVES_COMMAND_CHECKS="1"), mesh.started("beta")
        with listening() as port:
            at = ("--host", "127.0.0.1", "--port", str(port))
            often = ("--every", "1", "--fall", "1")
            said(alpha, "register", "tcp", *at, "--check", "tcp", *often, "--deregister-after", "60")
            said(alpha, "register", "program", *at, "--check", f"command=ls {flag}", *often)
            said(alpha, "register", "reporter", *at, "--check", "ttl=2")
            said(alpha, "register", "container", *at, "--check", "docker=no-such-container")
            url = f"{alpha.url}/healthz"
            said(alpha, "register", "http", *at, "--check", f"http={url}", "--expect-body", '"healthy"')
            assert alpha.request("PUT", REPORT, json={"status": "healthy", "output": "ready"}).status == 200
            wanted = {
                "tcp": ("healthy", f"port {port} takes connections"),
                "program": ("healthy", f"exit code 0: {flag}"),
                "reporter": ("healthy", "ready"),
                "http": ("healthy", "HTTP 200"),
            }
            eventually(lambda: wanted.items() <= healths(beta).items(), "beta sees that all are well")
            assert healths(beta)["container"][0] in {"unknown", "unhealthy"}
            assert beta.get("/api/services/tcp").body["deregister_after"] == 60
        flag.unlink()
        ill = {"tcp": ("unhealthy", "refused"), "reporter": ("unhealthy", "no report for 2 s")}
        taken = eventually(lambda: ill.items() <= healths(beta).items(), "beta sees that they are ill")
        note(f"unhealthy on the other host {taken:.2f} s after the port closed, at an interval of 1 s")
        eventually(lambda: healths(beta)["program"][0] == "unhealthy", "the program fails")
        assert healths(alpha) == healths(beta)
        alpha.terminate()
        alpha.restart()
        flag.touch()
        eventually(lambda: healths(beta)["program"][0] == "healthy", "its check outlived the restart")


def test_a_check_that_cannot_be_is_one_line(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        refused = alpha.run("register", "rag", "--port", "1", "--check", "command=ls")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "PMOVES_COMMAND_CHECKS=1" in refused.stderr
        wrong = alpha.run("register", "rag", "--port", "1", "--check", "tcp", "--every", "0.1")
        assert (wrong.returncode, "check.interval_s" in wrong.stderr) == (1, True)
        unknown = alpha.run("register", "rag", "--port", "1", "--check", "ping")
        assert (unknown.returncode, "is none of" in unknown.stderr) == (2, True)


def exposed_mesh(mesh: Mesh) -> tuple[AgentProcess, AgentProcess]:
    """Returns an agent that other hosts reach, and one that they do not."""
    alpha = mesh.started("alpha", SERVICE_REGISTRY_HOST="0.0.0.0", PMOVES_ADVERTISE_HOST=own_address())
    return alpha, mesh.started("beta")


def test_a_node_is_taken_out_and_in_again_from_itself_and_from_another_host(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha, beta = exposed_mesh(mesh)
        for name in ("rag", "whisper"):
            alpha.register(name, port=1, id="one")
        eventually(lambda: discovered(beta) == {"rag", "whisper"}, "beta sees both")
        assert "in maintenance: alpha/rag (1 instance hidden)" in said(
            alpha, "maintenance", "on", "alpha/rag", "--reason", "new model"
        )
        taken = eventually(lambda: discovered(beta) == {"whisper"}, "rag is hidden")
        note(f"hidden on the other host {taken:.2f} s after the command ended")
        assert shown(beta) == {"rag": "new model", "whisper": None}
        out = said(beta, "maintenance", "on", "alpha", "--reason", "new disk")
        assert out == "in maintenance: alpha (2 instances hidden)"
        eventually(lambda: discovered(beta) == set(), "all of alpha is hidden")
        alpha.register("late", port=2)
        eventually(lambda: shown(beta).get("late") == "new disk", "so is what it registers meanwhile")
        alpha.terminate()
        alpha.restart()
        eventually(lambda: beta.get("/api/nodes/alpha").body["status"] == "alive", "alpha is back")
        assert shown(beta) == {"rag": "new model", "whisper": "new disk", "late": "new disk"}
        out = said(beta, "maintenance", "off", "alpha")
        assert "but 1 of 3 instances still hidden by another mark: new model" in out
        said(beta, "maintenance", "off", "alpha/rag")
        eventually(lambda: discovered(beta) == {"rag", "whisper", "late"}, "all are found again")


def test_a_node_that_cannot_be_reached_is_said_in_one_line_with_what_to_do(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha, _ = exposed_mesh(mesh)
        eventually(lambda: alpha.get("/api/nodes/beta").status == 200, "alpha knows beta")
        there = alpha.run("maintenance", "on", "beta")
        assert (there.returncode, there.stderr.count("\n")) == (1, 1)
        assert there.stderr.strip().endswith("run it there: pmoves-mesh maintenance on beta")
        unknown = alpha.run("maintenance", "on", "gamma")
        assert (unknown.returncode, "Node not found" in unknown.stderr) == (1, True)
        assert alpha.run("maintenance", "on", "a/b/c/d").returncode == 2
        assert alpha.run("maintenance", "off", "alpha", "--reason", "x").returncode == 2
