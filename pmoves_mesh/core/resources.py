"""Resources: what a host has to compute with, and the capabilities that follow from it.

They are announced, so they are rounded: what wavers by a few megabytes from one start to the next is
no news. What is in use of them wavers by itself, and is no part of them: see `core.load`.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

GPUS_MAX: Final = 32
TEXT_LENGTH_MAX: Final = 128

Vendor = Literal["nvidia", "amd"]
Runtime = Literal["cuda", "rocm", ""]

_GIB: Final = 2**30
_WHOLE_FROM_GB: Final = 2
_CAPABILITY_LENGTH_MAX: Final = 64
_NOT_LETTER_RE: Final = re.compile(r"[^a-z0-9]+")
_BRANDS: Final = frozenset(
    {"nvidia", "geforce", "tesla", "quadro", "amd", "radeon", "instinct", "advanced", "micro", "devices"}
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class Gpu(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU.

    Attributes:
        vendor: who made it.
        model: as the driver names it.
        memory_gb: its memory in GiB, rounded; 0, and left out, where the driver does not tell.
        driver: the driver's version.
        runtime: with what it is programmed; empty where the host has no means to.
        cuda: the newest CUDA that the driver serves, such as `12.8`.
        integrated: whether its memory is the host's own, shared with the CPU.
    """

    vendor: Vendor
    model: str = ""
    memory_gb: float = 0
    driver: str = ""
    runtime: Runtime = ""
    cuda: str = ""
    integrated: bool = False


class Resources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host has; whatever could not be found out is left out.

    The names are those under which announcements in the field already give the same.

    Attributes:
        arch: as Go and Docker name it: `amd64`, `arm64`.
        soc: the system on a chip of a board that says so, such as `tegra234`.
        cpu_cores: how many it can use at once, hyper-threads counted.
        memory_gb: what the system has in GiB, rounded.
        disk_gb: size of the file system that holds the agent's data, in GiB, rounded.
        gpu: each GPU.
    """

    arch: str = ""
    board: str = ""
    soc: str = ""
    cpu_model: str = ""
    cpu_cores: int = 0
    memory_gb: float = 0
    disk_gb: float = 0
    gpu_count: int = 0
    gpu: tuple[Gpu, ...] = ()


def described(resources: Resources) -> dict[str, Any]:
    """Returns resources as an announcement carries them."""
    built: dict[str, Any] = msgspec.to_builtins(resources)
    return built


def capabilities_of(resources: Resources) -> tuple[str, ...]:
    """Returns what a host can do by what it has: `arm64`, `jetson`, `gpu`, `cuda`, `rocm`.

    After those come, for each GPU, the words that GPU hosts in the field announce, such as
    `gpu:rtx5090`, `vram:32gb` and `cuda:12.8`.
    """
    found: dict[str, None] = {}
    if resources.arch:
        found[resources.arch] = None
    if resources.soc.startswith("tegra"):
        found["jetson"] = None
    for gpu in resources.gpu:
        found["gpu"] = None
        if gpu.runtime:
            found[gpu.runtime] = None
    for gpu in resources.gpu:
        found |= dict.fromkeys(_words(gpu))
    return tuple(name[:_CAPABILITY_LENGTH_MAX] for name in found)


def gigabytes(size_bytes: int) -> float:
    """Returns a size in GiB, rounded so that it names what was bought: whole, or to a tenth below 2."""
    exact = size_bytes / _GIB
    return round(exact) if exact >= _WHOLE_FROM_GB else round(exact, 1) or 0


def architecture(machine: str) -> str:
    """Returns the architecture that `uname -m` calls `machine`, by the name that images go by."""
    name = _NOT_LETTER_RE.sub("_", machine.strip().lower()).strip("_")
    return _ARCHITECTURES.get(name, name)


def _words(gpu: Gpu) -> list[str]:
    parts = [part for part in _NOT_LETTER_RE.split(gpu.model.lower()) if part and part not in _BRANDS]
    return [
        *([f"gpu:{''.join(parts)}"] if parts else []),
        *([f"vram:{gpu.memory_gb:.0f}gb"] if gpu.memory_gb >= 1 else []),
        *([f"cuda:{gpu.cuda}"] if gpu.cuda else []),
    ]
