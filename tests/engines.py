"""Container engines for tests: labelled containers in a real one, and a way to cut an agent off from it."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from nats_server import BINARY, IMAGE

DOCKER_SOCKET = Path("/var/run/docker.sock")
PORT = "4222/tcp"
EVERY_NS = 200_000_000


def unique(service: str) -> str:
    """Returns a name that no other run of the tests has."""
    return f"{service}-{secrets.token_hex(4)}"


def labelled(name: str, **further: str) -> dict[str, str]:
    """Returns the labels of a container; `_` in a keyword stands for a dot."""
    more = {f"pmoves.mesh.{label.replace('__', '.')}": value for label, value in further.items()}
    return {"pmoves.mesh.name": name, **more}


@contextmanager
def running(client: Any, **options: Any) -> Iterator[Any]:
    """Runs a container of the nats-server; it is removed in the end."""
    import docker  # noqa: PLC0415 - only where an engine answers

    container = client.containers.run(IMAGE, detach=True, **options)
    try:
        yield container
    finally:
        with suppress(docker.errors.NotFound):
            container.remove(force=True)


def checked_by(directory: Path) -> Mapping[str, Any]:
    """Returns the options of a container whose health check passes while `nats.conf` there is one."""
    health = {
        "test": ["CMD", "/nats-server", "-t", "-c", "/checked/nats.conf"],
        "interval": EVERY_NS,
        "timeout": 5_000_000_000,
        "retries": 1,
    }
    return {"healthcheck": health, "volumes": {str(directory): {"bind": "/checked", "mode": "ro"}}}


def host_port(container: Any, port: str = PORT) -> int:
    """Returns where a container's port is published."""
    container.reload()
    bindings = container.attrs["NetworkSettings"]["Ports"][port]
    return int(next(one["HostPort"] for one in bindings if one["HostIp"] != "::"))


def podman_problem() -> str:
    """Returns why Podman cannot be used here, or nothing if it can."""
    if shutil.which("podman") is None:
        return "no podman is installed"
    asked = subprocess.run(["podman", "info"], capture_output=True, timeout=30, check=False, text=True)
    return "" if asked.returncode == 0 else f"podman cannot run here: {asked.stderr.strip()[:200]}"


class Podman:
    """Podman, and its service on a socket of its own; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.socket = path
        self._service: subprocess.Popen[bytes] | None = None

    @staticmethod
    def run(*words: str) -> str:
        done = subprocess.run(["podman", *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def problem(self) -> str:
        """Returns why no container can be run here, which `podman info` does not find out; or nothing."""
        words = ["podman", "run", "--rm", IMAGE, "--version"]
        tried = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return "" if tried.returncode == 0 else f"podman cannot run here: {tried.stderr.strip()[:200]}"

    @contextmanager
    def running(self, name: str, labels: Mapping[str, str]) -> Iterator[None]:
        """Runs a container of the nats-server; it is removed in the end."""
        words = [word for label, value in labels.items() for word in ("--label", f"{label}={value}")]
        try:
            self.run("run", "--detach", "--name", name, "--publish", "4222", *words, IMAGE)
            yield
        finally:
            self.run("rm", "--force", "--ignore", name)

    def host_port(self, name: str) -> int:
        return int(self.run("port", name, PORT).rpartition(":")[2])

    def start(self) -> None:
        self._service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{self.socket}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        if self._service is not None:
            self._service.terminate()
            self._service.wait(20)
            self._service = None

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(BINARY.resolve(), Path(directory) / "nats-server")
            recipe = 'FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT ["/nats-server"]\n'
            (Path(directory) / "Containerfile").write_text(recipe)
            self.run("build", "--quiet", "--tag", IMAGE, directory)
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class Relay:
    """A socket that leads to an engine's, until it is cut; use it as a context manager."""

    def __init__(self, path: Path, engine: Path = DOCKER_SOCKET) -> None:
        self.path = path
        self._engine = engine
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def join(self) -> None:
        """Begins to lead there."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Ends every connection, and takes no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.path.unlink(missing_ok=True)
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._engine))
                self._open += near, far
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), closing(source):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(self, *_error: object) -> None:
        self.cut()
