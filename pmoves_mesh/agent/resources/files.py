"""The small files in which a kernel tells of its machine, below `/` or wherever a host's are mounted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_BYTES_MAX: Final = 256 * 1024


def read_text(path: Path) -> str:
    """Returns a file's text without what surrounds it; empty if there is none, or none that may be read."""
    try:
        with path.open("rb") as file:
            return file.read(_BYTES_MAX).decode(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Returns a file's text as a number, or None if it is not one."""
    text = read_text(path)
    return int(text) if text.isascii() and text.isdigit() else None


def read_fields(path: Path) -> dict[str, str]:
    """Returns the `name: value` lines of a file; of several lines with one name the first."""
    found: dict[str, str] = {}
    for line in read_text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
