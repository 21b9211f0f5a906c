"""A host whose agent runs a secured nats-server, and services of it with identities of their own."""

from __future__ import annotations

from pathlib import Path

from agents import AgentProcess
from ports import free_port

MESH = "pmoves-mesh"


class SecuredHost(AgentProcess):
    """The main host of a mesh; use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        super().__init__(
            directory,
            "main",
            "",
            PMOVES_NATS_HOST="0.0.0.0",
            PMOVES_NATS_PORT=str(self.port),
            PMOVES_ADVERTISE_HOST="127.0.0.1",
        )

    def __exit__(self, *_error: object) -> None:
        # The server would outlive an agent that is killed.
        self.terminate()

    @property
    def nats_url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def certify(self, service: str) -> tuple[Path, Path]:
        """Gets a service an identity, and returns its certificate and its key."""
        done = self.run("certs", "issue", "--service", service)
        assert done.returncode == 0, done.stderr
        stem = self.tls_dir / "services" / service
        return stem.with_suffix(".crt"), stem.with_suffix(".key")
