"""The host itself: its CPU, its memory, its disk, and how busy they are.

Source: proc(5), "/proc/stat", "/proc/meminfo", "/proc/cpuinfo".
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from pmoves_mesh.agent.resources.files import read_fields, read_text
from pmoves_mesh.core.resources import TEXT_LENGTH_MAX

_KIB: Final = 1024
_IDLE: Final = slice(3, 5)
_COUNTED: Final = 8
"""Of the first line of `/proc/stat`: `idle` and `iowait`, and how many there are that count nothing twice."""


class CpuTime(NamedTuple):
    """Time that all cores spent since the start, in ticks."""

    busy: int
    whole: int


def cpu_model(root: Path) -> str:
    """Returns the CPU's name; empty where the kernel gives none, as on most ARM boards."""
    return read_fields(root / "proc/cpuinfo").get("model name", "")[:TEXT_LENGTH_MAX]


def cpu_cores(root: Path) -> int:
    """Returns how many threads the CPU can run at once."""
    lines = read_text(root / "proc/stat").splitlines()
    counted = sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines)
    return counted or os.cpu_count() or 0


def memory_bytes(root: Path) -> int:
    """Returns how much memory the system has."""
    told = _memory(root, "MemTotal")
    return told if told is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_in_use_bytes(root: Path) -> int | None:
    """Returns how much memory no program could have more of; None where the kernel does not tell."""
    whole, available = _memory(root, "MemTotal"), _memory(root, "MemAvailable")
    return None if whole is None or available is None else max(0, whole - available)


def disk_bytes(directory: Path) -> int:
    """Returns the size of the file system that holds a directory.

    Raises:
        OSError: if there is no such directory.
    """
    return shutil.disk_usage(directory).total


def cpu_time(root: Path) -> CpuTime | None:
    """Returns how the cores spent their time so far; None where the kernel does not tell."""
    name, *ticks = (read_text(root / "proc/stat").splitlines() or [""])[0].split() or [""]
    if name != "cpu" or len(ticks) < _COUNTED or not all(map(str.isdigit, ticks)):
        return None
    spent = [int(tick) for tick in ticks[:_COUNTED]]
    return CpuTime(sum(spent) - sum(spent[_IDLE]), sum(spent))


def _memory(root: Path, name: str) -> int | None:
    number, _, unit = read_fields(root / "proc/meminfo").get(name, "").partition(" ")
    return int(number) * _KIB if number.isdigit() and unit == "kB" else None
