"""The agent's pid file: held by a lock for as long as the agent lives.

The kernel drops the lock when the process ends, however it ends, so a pid file without a lock
is stale for certain, even when its number was given to another process since.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from pmoves_mesh.errors import StartError

# Whoever looks at the file holds a shared lock for some microseconds, so one refusal proves nothing.
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.01


class PidFile:
    """A file with this process's number, locked from `acquire` to `release`.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Locks the file and writes this process's number to it; a stale file is taken over.

        Raises:
            StartError: if another agent holds it, or the file cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise StartError(f"cannot write the pid file {self._path}: {error.strerror}") from error
            if _try_lock(descriptor, fcntl.LOCK_EX) and _is_named(descriptor, self._path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
                self._descriptor = descriptor
                return
            os.close(descriptor)
            time.sleep(_PAUSE_S)
        raise StartError(f"another agent (pid {running_pid(self._path)}) runs with {self._path.parent}")

    def release(self) -> None:
        """Removes the file and gives the lock up; does nothing when it is not held."""
        if self._descriptor is None:
            return
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


def running_pid(path: Path) -> int | None:
    """Returns the process number of the agent that holds the pid file, or None if none does."""
    for _ in range(_ATTEMPTS):
        held, pid = _look(path)
        if not held:
            return None
        if pid is not None:
            return pid
        time.sleep(_PAUSE_S)  # the holder is between its lock and its number
    return None


def is_stale(path: Path) -> bool:
    """Whether a pid file is there that no living agent holds."""
    held, _ = _look(path)
    return not held and path.exists()


def _look(path: Path) -> tuple[bool, int | None]:
    """Returns whether the file is locked, and the number in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, None
    except OSError as error:
        raise StartError(f"cannot read the pid file {path}: {error.strerror}") from error
    try:
        held = not _try_lock(descriptor, fcntl.LOCK_SH)
        text = os.pread(descriptor, 32, 0).strip()
        return held, int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name; its last holder may have removed it."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
