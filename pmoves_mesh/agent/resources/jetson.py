"""A Jetson's GPU, which is a part of its chip and shares its memory: through the device tree.

Source: Devicetree Specification 0.4, section 2.3 (`compatible`, `model`); Jetson Linux Developer Guide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pmoves_mesh.agent.resources.files import read_number, read_text
from pmoves_mesh.agent.resources.host import memory_bytes, memory_in_use_bytes
from pmoves_mesh.core.load import share
from pmoves_mesh.core.resources import TEXT_LENGTH_MAX, Gpu, gigabytes

_TREES: Final = ("proc/device-tree", "sys/firmware/devicetree/base")
_RELEASE_RE: Final = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
_LOADS: Final = (
    "sys/devices/gpu.0/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/platform/*.gpu/load",
    "sys/devices/platform/bus@0/*.gpu/load",
)
_LOAD_WHOLE: Final = 1000


class Jetson:
    """The integrated GPU of an NVIDIA Tegra."""

    name: Final = "jetson"

    def find(self, root: Path) -> Sequence[Gpu]:
        """Returns the one GPU of a Jetson, or none."""
        chip = soc(root)
        if not chip.startswith("tegra"):
            return ()
        release = _RELEASE_RE.search(read_text(root / "etc/nv_tegra_release"))
        return [
            Gpu(
                vendor="nvidia",
                model=(board(root) or f"NVIDIA {chip}")[:TEXT_LENGTH_MAX],
                memory_gb=gigabytes(memory_bytes(root)),
                driver=".".join(release.groups()) if release else "",
                runtime="cuda",
                integrated=True,
            )
        ]

    def loads(self, root: Path) -> Sequence[float]:
        """Returns how much of it is in use: of its time or of the host's memory, whichever is the more."""
        files = (file for pattern in _LOADS for file in sorted(root.glob(pattern)))
        busy = next((told for file in files if (told := read_number(file)) is not None), None)
        if busy is None or not soc(root).startswith("tegra"):
            return ()
        memory = share(memory_in_use_bytes(root) or 0, memory_bytes(root))
        return [max(share(busy, _LOAD_WHOLE), memory)]


def board(root: Path) -> str:
    """Returns the board's name; empty where there is no device tree, as on a PC."""
    return _told(root, "model")[:TEXT_LENGTH_MAX]


def soc(root: Path) -> str:
    """Returns the system on a chip, without its maker: the last of what the board is compatible with."""
    names = [name for name in _told(root, "compatible").split("\0") if name]
    return names[-1].rpartition(",")[2][:TEXT_LENGTH_MAX] if names else ""


def _told(root: Path, name: str) -> str:
    return next(filter(None, (read_text(root / tree / name) for tree in _TREES)), "")
