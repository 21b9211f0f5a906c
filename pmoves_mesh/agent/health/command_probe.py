"""The command probe: runs a program of this host, and takes its exit code for the instance's health.

It is run as the agent's user, without a shell, in an environment that holds nothing of the agent's.
Whatever it started ends with it: it leads a process group, which is killed when the program has
ended or its time is up. Exit codes are those of the monitoring plugins: 0 passes, 1 is a warning
and passes, anything else fails.

Source: Monitoring Plugins Development Guidelines, section 2.4.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

from pmoves_mesh.agent.health.reach import not_probed
from pmoves_mesh.core.check import COMMAND_SETTING, CommandCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance

OUTPUT_BYTES_MAX: Final = 4096
CONCURRENT_MAX: Final = 32

_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_CHUNK_BYTES: Final = 4096
_WARNING: Final = 1


class CommandProbe:
    """Runs commands, at most 32 at a time; one that has to wait for its turn does so in its own time."""

    def __init__(self, *, allowed: bool) -> None:
        """Takes whether this node's settings let a check run a command at all."""
        self._allowed = allowed
        self._turns = asyncio.Semaphore(CONCURRENT_MAX)

    async def __call__(self, instance: Instance, check: CommandCheck) -> Finding:
        """Returns how the command ended; whoever calls sets the time that it may take."""
        del instance
        if not self._allowed:
            return not_probed(f"{COMMAND_SETTING}=1 is not set")
        async with self._turns:
            output = _Output()
            try:
                code = await _run(check.command, output)
            except OSError as error:
                return Finding(passed=False, output=f"cannot be run ({error.strerror})")
        passed = 0 <= code <= _WARNING
        ending = f"exit code {code}" if code >= 0 else f"ended by signal {-code}"
        said = output.first_line()
        return Finding(passed=passed, output=f"{ending}: {said}" if said else ending)


class _Output:
    """What a command says: a pipe that is read as it fills, of which the beginning is kept.

    It is none of asyncio's own, since those keep a program from ending as long as anything that
    it left behind still holds them.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._end, self.begin = os.pipe()
        os.set_blocking(self._end, False)

    def read(self) -> None:
        """Reads what is there; beyond the bound it is thrown away, so that nobody waits to say it."""
        with suppress(BlockingIOError):
            chunk = os.read(self._end, _CHUNK_BYTES)
            self._kept += chunk[: OUTPUT_BYTES_MAX - len(self._kept)]
            if not chunk:
                asyncio.get_running_loop().remove_reader(self._end)

    def __enter__(self) -> None:
        asyncio.get_running_loop().add_reader(self._end, self.read)

    def __exit__(self, *_error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._end)
        self.read()
        os.close(self._end)

    def first_line(self) -> str:
        """Returns the first line that is not empty, as far as it can be printed."""
        lines = self._kept.decode(errors="replace").splitlines()
        line = next(filter(None, map(str.strip, lines)), "")
        return "".join(character if character.isprintable() else "?" for character in line)


async def _run(command: tuple[str, ...], output: _Output) -> int:
    """Returns the exit code of a command; negative if a signal ended it.

    Raises:
        OSError: if it cannot be run.
    """
    with output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.begin,
                stderr=output.begin,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(output.begin)
        try:
            return await process.wait()
        finally:
            # The group may outlive its leader; a group that is gone has no process any more.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await _reaped(process)


async def _reaped(process: asyncio.subprocess.Process) -> None:
    """Waits for a process that was killed, even if whoever asked for it no longer waits."""
    if process.returncode is None:
        await asyncio.shield(process.wait())
