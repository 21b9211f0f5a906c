"""Health on real agents: a service's own host finds it well or not, and every host sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from agents import AgentProcess, eventually, mesh_in, note

# Three probes of ten seconds, give or take a tenth, and what the mesh needs to say it.
FALL_S = 45.0


class _Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def service() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Well) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def health(agent: AgentProcess, name: str) -> tuple[str, str]:
    body = agent.get(f"/api/services/{name}").body
    return body.get("health_status", ""), body.get("health_output", "")


def test_a_service_becomes_healthy_and_unhealthy_after_its_server_stops_and_both_hosts_see_it(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha, beta = mesh.started("alpha"), mesh.started("beta")
        with service() as server:
            port = server.server_port
            url = f"http://localhost:{port}/healthz"
            alpha.register("rag", port=port, capabilities=["rag"], health_url=url)
            taken = eventually(lambda: health(beta, "rag") == ("healthy", "HTTP 200"), "beta sees it is well")
            note(f"healthy on the other host {taken:.2f} s after it registered")
            alpha.register("far", port=1, health_url="http://169.254.169.254/latest/meta-data/")
        taken = eventually(
            lambda: health(beta, "rag") == ("unhealthy", "refused"), "beta sees it end", FALL_S
        )
        note(f"unhealthy on the other host {taken:.1f} s after its server stopped")
        found = beta.post("/api/discover", {"capabilities": ["rag"]}).body
        assert found["services"] == []
        status, output = health(beta, "far")
        assert (status, output[:12]) == ("unknown", "not probed: ")
        assert [line["status"] for line in alpha.logged("health changed", service="rag")] == [
            "healthy",
            "unhealthy",
        ]
