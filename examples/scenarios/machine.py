"""A machine that is not there: the files in which its kernel would tell of its memory and of its GPU.

On a host of your own none of this is needed: its agent reads what the kernel tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CARD: Final = "sys/class/drm/card0/device"
_BUSY: Final = f"{_CARD}/gpu_busy_percent"
_KIB: Final = 2**20  # of a GiB


def make(root: Path, *, gpu_gb: int = 0) -> Path:
    """Makes a machine with 16 GB of memory, and perhaps a GPU that is idle; returns its root."""
    _write(root, "proc/meminfo", f"MemTotal: {16 * _KIB} kB\nMemAvailable: {12 * _KIB} kB\n")
    _write(root, "proc/stat", "cpu  100 0 100 700 0 0 0 0 0 0\ncpu0 100 0 100 700 0 0 0 0 0 0\n")
    if gpu_gb:
        for name, text in (
            ("vendor", "0x1002"),
            ("device", "0x744c"),
            ("mem_info_vram_total", str(gpu_gb * 2**30)),
            ("mem_info_vram_used", "0"),
        ):
            _write(root, f"{_CARD}/{name}", f"{text}\n")
        _write(root, "dev/kfd", "")
        busy(root, 0)
    return root


def busy(root: Path, percent: int) -> None:
    """Lets the GPU be in use so much."""
    _write(root, _BUSY, f"{percent}\n")


def _write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
