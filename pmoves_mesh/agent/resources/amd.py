"""AMD's GPUs, through sysfs.

Source: kernel.org, "AMDGPU driver", "GPU sysfs attributes".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pmoves_mesh.agent.resources.files import read_number, read_text
from pmoves_mesh.core.load import share
from pmoves_mesh.core.resources import GPUS_MAX, TEXT_LENGTH_MAX, Gpu, gigabytes

_VENDOR: Final = "0x1002"


class Amd:
    """Every GPU that the `amdgpu` driver shows; older ones, which compute nothing, have no memory there."""

    name: Final = "amd"

    def find(self, root: Path) -> Sequence[Gpu]:
        """Returns those of a host. ROCm's own device tells whether they can be computed with."""
        runtime = (root / "dev/kfd").exists()
        driver = read_text(root / "sys/module/amdgpu/version") or read_text(
            root / "proc/sys/kernel/osrelease"
        )
        return [
            Gpu(
                vendor="amd",
                model=_model(device),
                memory_gb=gigabytes(read_number(device / "mem_info_vram_total") or 0),
                driver=driver[:TEXT_LENGTH_MAX],
                runtime="rocm" if runtime else "",
            )
            for device in _devices(root)
        ]

    def loads(self, root: Path) -> Sequence[float]:
        """Returns how much of each is in use: of its time or of its memory, whichever is the more."""
        found = []
        for device in _devices(root):
            busy = read_number(device / "gpu_busy_percent")
            used = read_number(device / "mem_info_vram_used")
            whole = read_number(device / "mem_info_vram_total")
            shares = [
                *([] if busy is None else [share(busy, 100)]),
                *([] if used is None or not whole else [share(used, whole)]),
            ]
            found += [max(shares)] if shares else []
        return found


def _devices(root: Path) -> list[Path]:
    cards = sorted((root / "sys/class/drm").glob("card[0-9]*"))
    # A card's connectors stand beside it, as card0-DP-1.
    devices = [card / "device" for card in cards if card.name.removeprefix("card").isdigit()]
    found = [
        device
        for device in devices
        if read_text(device / "vendor") == _VENDOR and (device / "mem_info_vram_total").exists()
    ]
    return found[:GPUS_MAX]


def _model(device: Path) -> str:
    """Returns what the card calls itself; most do not, and are known by the number of their chip."""
    named = read_text(device / "product_name")
    return (named or f"AMD {read_text(device / 'device')}")[:TEXT_LENGTH_MAX]
