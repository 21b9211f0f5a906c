"""Several hosts on one machine: each an agent with a name, a folder and ports of its own, all of it real.

On one's own machines none of this is needed: there each host has its agent already.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

PATIENCE_S: Final = 60.0
"""How long anything may take before the scenario has failed; all of it is a matter of a few seconds."""

POLL_S: Final = 0.05
_HERE: Final = Path(__file__).parent
_SETTINGS: Final = ("NATS_", "MESH_", "NODE_", "PMOVES_", "SERVICE_", "TAILSCALE_")


class Host:
    """A host: its agent, and the programs that run beside it. Use it as a context manager."""

    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        """Takes what makes it a host of its own.

        Args:
            folder: of the whole mesh; what is this host's own lies in a folder of its name there.
            name: its name in the mesh.
            settings: of its agent and its programs, beyond that.
        """
        port = free_port()
        self.name: Final = name
        self.url: Final = f"http://127.0.0.1:{port}"
        self._folder = folder / name
        self._folder.mkdir()
        self._running: list[subprocess.Popen[bytes]] = []
        self._settings = {
            "MESH_HOSTNAME": name,
            "MESH_NETWORK_MODE": "nats",
            "PMOVES_CONTAINERS": "off",
            "SERVICE_REGISTRY_PORT": str(port),
            "SERVICE_REGISTRY_URL": self.url,
            "PMOVES_DNS_PORT": "0",
            "PMOVES_DATA_DIR": str(self._folder / "data"),
            "PMOVES_TLS_DIR": str(folder / "tls"),
            **settings,
        }

    @property
    def environment(self) -> dict[str, str]:
        """What programs on this host find in their environment."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        return {**others, **self._settings}

    def start(self) -> None:
        """Starts its agent, and waits until that has joined the mesh."""
        self._launch(["-m", "pmoves_mesh", "agent"], "agent")
        until(self._is_ready, f"{self.name} joins the mesh")

    def run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a program of this folder on this host."""
        return self._launch([str(_HERE / program), *arguments], Path(program).stem)

    def lose(self) -> None:
        """Ends the agent, every program and a nats-server at once, as a power failure does."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()
        server = self._folder / "data" / "nats" / "nats-server.pid"
        if server.exists():  # it outlives its agent, but no power failure
            os.kill(int(server.read_text()), signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(PATIENCE_S / 4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _launch(self, arguments: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - programs of this folder
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        return process

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def hosts(settings: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Host]]:
    """Gives hosts of one mesh by their names, each with settings of its own.

    The agent of the first runs the nats-server for all.
    """
    nats_port = os.environ.get("PMOVES_NATS_PORT") or str(free_port())
    nats = {"PMOVES_NATS_PORT": nats_port}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pmoves-mesh-")))
        made: dict[str, Host] = {}
        for name, own in settings.items():
            says_where = any(
                setting in own for setting in ("NATS_URL", "NATS_EXTERNAL_URL", "PMOVES_NATS_PORT")
            )
            made[name] = stack.enter_context(Host(folder, name, **({} if says_where else nats), **own))
            nats = {"NATS_URL": f"nats://127.0.0.1:{nats_port}"}
        yield made


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until something holds, and ends the program if it does not in a minute."""
    for _ in range(int(PATIENCE_S / POLL_S)):
        if holds():
            return
        time.sleep(POLL_S)
    sys.exit(f"after {PATIENCE_S:.0f} s it was not so that {what}")


def free_port() -> int:
    """Returns a port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
