"""What a server's directory holds, as far as more than one module reads or writes it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from pmoves_mesh.errors import StartError
from pmoves_mesh.server.child import command_of
from pmoves_mesh.server.settings import ServerFiles

_TAIL_BYTES: Final = 8192


def read_text(path: Path) -> str:
    """Returns a file's text; empty if there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def write_text(path: Path, text: str) -> bool:
    """Puts a text at `path`, for its owner alone, whole or not at all; returns whether it was another."""
    if path.is_file() and read_text(path) == text:
        return False
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
    return True


def size_of(path: Path) -> int:
    """Returns the bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def lines_after(path: Path, mark: int) -> list[str]:
    """Returns the lines of a growing file from byte `mark` on, or all if the file was begun anew since."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(mark if mark <= size else 0)
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []


def last_lines(path: Path) -> list[str]:
    """Returns the last lines of a file that are not empty."""
    return lines_after(path, max(0, size_of(path) - _TAIL_BYTES))


def running_pid(files: ServerFiles) -> int | None:
    """Returns the id of the server of a directory, if it runs."""
    text = read_text(files.pid).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return int(text) if str(files.config) in command_of(int(text)) else None


def move_account(files: ServerFiles, source: str, target: str) -> bool:
    """Gives the streams of one account to another that has none; returns whether there were any to give.

    The server must not run.

    Raises:
        OSError: if they cannot be moved.
    """
    place = files.streams / "jetstream"
    if source == target or not _has_streams(place / source) or _has_streams(place / target):
        return False
    if (place / target).exists():
        shutil.rmtree(place / target)
    (place / source).rename(place / target)
    return True


def set_aside(files: ServerFiles) -> bool:
    """Puts the streams that a server held alone where no server removes them; returns whether there were any.

    One of several removes what it finds in its own directory and the others do not know.
    The server must not run.

    Raises:
        OSError: if they cannot be moved.
    """
    aside = files.growing.streams
    accounts = files.streams / "jetstream"
    if aside.exists() or not accounts.is_dir() or not any(map(_has_streams, accounts.iterdir())):
        return False
    aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.streams.rename(aside)
    return True


def put_back(files: ServerFiles) -> bool:
    """Gives a server that is alone again the streams that it held alone; returns whether there were any.

    Raises:
        OSError: if they cannot be moved.
        StartError: if a server still uses them.
    """
    aside = files.growing.streams
    if not aside.is_dir():
        return False
    pid = running_pid(files.growing)
    if pid is not None:
        raise StartError(f"a nats-server (pid {pid}) still uses {aside}: end it")
    shutil.rmtree(files.streams, ignore_errors=True)
    aside.rename(files.streams)
    return True


def _has_streams(account: Path) -> bool:
    streams = account / "streams"
    return streams.is_dir() and any(streams.iterdir())
