"""The embedded nats-server: started, adopted, kept alive and stopped.

Other hosts rely on it, so it outlives a crash of the agent that started it, and the next agent
of the same data directory takes it over. Only an orderly stop ends it.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from pmoves_mesh.errors import StartError
from pmoves_mesh.ports import Clock
from pmoves_mesh.server.binary import Binary
from pmoves_mesh.server.child import ServerProcess, command_of
from pmoves_mesh.server.host import check_free, name_at
from pmoves_mesh.server.settings import HOST, ServerFiles, render

_READY_S: Final = 10.0
_GRACE_S: Final = 4.0
_POLL_S: Final = 0.02
_STABLE_S: Final = 10.0
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0
_TAIL_BYTES: Final = 8192

_log = structlog.get_logger(__name__)


class EmbeddedServer:
    """The nats-server of one data directory.

    Args:
        binary: the program.
        data_dir: its files go to `nats` below it.
        port: on loopback.
        clock: paces readiness and restarts.
    """

    def __init__(self, binary: Binary, data_dir: Path, port: int, clock: Clock) -> None:
        self._binary = binary
        self._files = ServerFiles(data_dir.absolute() / "nats")
        self._port = port
        self._clock = clock
        self._name = ""
        self._process: ServerProcess | None = None
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"nats://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Makes it run, and returns when it takes connections: at most 10 s later.

        One that an earlier run of this data directory left is taken over as it is.

        Raises:
            StartError: if it cannot run, or the port is taken; says by whom and what to do.
        """
        self._stopped.clear()
        config_kept = await asyncio.to_thread(self._prepare)
        if not await self._adopt(config_kept=config_kept):
            await self._launch()

    async def supervise(self) -> None:
        """Starts it again whenever it dies, at once and then ever more slowly, until `stop`."""
        failures = 0
        while not self._stopped.is_set():
            begun_s = self._clock.monotonic_s()
            process = self._process
            if process is not None:
                await process.exited()
                if self._stopped.is_set():
                    return
                reason = await asyncio.to_thread(self._last_words, process)
                _log.error("nats-server ended", pid=process.pid, reason=reason)
            if self._clock.monotonic_s() - begun_s > _STABLE_S:
                failures = 0
            await self._clock.sleep(restart_pause_s(failures))
            failures += 1
            try:
                await self._launch()
            except StartError as error:
                if not self._stopped.is_set():
                    _log.error("nats-server not restarted", reason=str(error))

    async def stop(self) -> None:
        """Ends it: asks, and kills it if it still runs 4 s later."""
        self._stopped.set()
        process = self._process
        if process is None:
            return
        try:
            await process.end(_GRACE_S)
        finally:
            self._discard(process)

    async def _adopt(self, *, config_kept: bool) -> bool:
        """Takes over the server that an earlier run left, or ends it if it is not as it should be now."""
        pid = await asyncio.to_thread(_read_pid, self._files)
        if pid is None:
            return False
        self._process = ServerProcess(pid, str(self._files.config), None, self._clock)
        if config_kept and await self._ready(self._process):
            _log.info("nats-server adopted", pid=pid, port=self._port)
            return True
        await self.stop()
        self._stopped.clear()
        return False

    async def _launch(self) -> None:
        self._process = None
        await asyncio.to_thread(check_free, self._port)
        if self._stopped.is_set():
            return
        process = self._process = self._spawn()
        try:
            ready = await self._ready(process)
        except BaseException:
            self._discard(process)
            raise
        if ready:
            _log.info("nats-server started", pid=process.pid, port=self._port, version=self._binary.version)
            return
        alive = process.alive()
        self._discard(process)
        reason = f"no answer within {_READY_S:.0f} s" if alive else self._last_words(process)
        raise StartError(f"nats-server does not start ({reason}); its log is {self._files.log}")

    def _spawn(self) -> ServerProcess:
        """Starts the program in a session of its own, where neither a terminal nor our end reaches it."""
        try:
            with self._files.output.open("wb") as output:
                child = subprocess.Popen(
                    [self._binary.path, "-c", self._files.config],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartError(f"{self._binary.path} cannot be started ({error.strerror})") from None
        process = ServerProcess(child.pid, str(self._files.config), child, self._clock)
        try:
            self._files.pid.write_text(str(child.pid))
        except OSError as error:
            process.kill()
            raise StartError(f"{self._files.pid}: cannot be written ({error.strerror})") from None
        return process

    def _discard(self, process: ServerProcess) -> None:
        process.kill()
        self._process = None
        with suppress(OSError):
            self._files.pid.unlink(missing_ok=True)

    async def _ready(self, process: ServerProcess) -> bool:
        """Returns whether our server answers on our port, once it does, or has ended, or 10 s have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while process.alive():
                    if await name_at(self._port) == self._name:
                        return True
                    await self._clock.sleep(_POLL_S)
        return False

    def _prepare(self) -> bool:
        """Makes the directory, the server's name and its configuration; returns whether that is unchanged."""
        try:
            self._files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._name = _read(self._files.name).strip()
            if not self._name:
                self._name = f"pmoves-mesh-{secrets.token_hex(8)}"
                _write(self._files.name, self._name)
            config = render(self._files, self._name, self._port)
            if _read(self._files.config) == config:
                return True
            _write(self._files.config, config)
        except OSError as error:
            raise StartError(f"{self._files.directory}: cannot be written ({error.strerror})") from None
        return False

    def _last_words(self, process: ServerProcess) -> str:
        """Returns how a process ended, and the last complaint that it left."""
        logged = [line for line in _tail(self._files.log) if line.startswith(f"[{process.pid}]")]
        complaints = [line for line in logged if "[FTL]" in line or "[ERR]" in line]
        words = complaints or _tail(self._files.output)
        return f"{process.ending()}: {words[-1][:200]}" if words else process.ending()


def restart_pause_s(failures: int) -> float:
    """Returns the seconds to wait before a restart, after so many in a row.

    0, then 0.1 doubled each time, up to 5.
    """
    doublings = min(failures, 10) - 1  # more than enough to reach the longest pause
    return min(_PAUSE_MIN_S * 2**doublings, _PAUSE_MAX_S) if failures else 0.0


def _read_pid(files: ServerFiles) -> int | None:
    """Returns the id of the server that an earlier run left, if it still runs."""
    text = _read(files.pid).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return int(text) if str(files.config) in command_of(int(text)) else None


def _read(path: Path) -> str:
    """Returns a file's text; empty if there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Puts a text at `path`, whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def _tail(path: Path) -> list[str]:
    """Returns the last lines of a file that are not empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
