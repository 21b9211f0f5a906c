"""Detection: what this host has, and how much of it is in use, part by part.

A part that fails is left out, and logged once; the others are told all the same. Everything here
blocks, for a moment or for good where a driver hangs: `agent.resources.aside` keeps that from the loop.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from pmoves_mesh.agent.resources import host, jetson
from pmoves_mesh.agent.resources.amd import Amd
from pmoves_mesh.agent.resources.gpus import GpuKind
from pmoves_mesh.agent.resources.host import CpuTime
from pmoves_mesh.agent.resources.jetson import Jetson
from pmoves_mesh.agent.resources.nvidia import Nvidia
from pmoves_mesh.core.load import Load, share
from pmoves_mesh.core.resources import GPUS_MAX, Gpu, Resources, architecture, gigabytes

_log: Final = structlog.get_logger(__name__)

_T = TypeVar("_T")


class Detection:
    """Finds out about one host.

    Args:
        root: where the host's `/proc`, `/sys`, `/dev` and `/etc` are.
        data_dir: on the disk that counts.
        kinds: of GPU to look for.
        machine: what `uname -m` says.
    """

    def __init__(
        self,
        root: Path,
        data_dir: Path,
        *,
        kinds: Sequence[GpuKind] | None = None,
        machine: str = "",
    ) -> None:
        self._root = root
        self._data_dir = data_dir
        self._kinds = (Jetson(), Nvidia(), Amd()) if kinds is None else tuple(kinds)
        self._machine = machine or platform.machine()
        self._cpu: CpuTime | None = None
        self._failing: set[str] = set()

    def resources(self) -> Resources:
        """Returns what the host has."""
        root, gpus = self._root, self._gpus()
        unknown: float = 0
        return Resources(
            arch=architecture(self._machine),
            board=self._part("board", lambda: jetson.board(root), ""),
            soc=self._part("soc", lambda: jetson.soc(root), ""),
            cpu_model=self._part("cpu", lambda: host.cpu_model(root), ""),
            cpu_cores=self._part("cpu", lambda: host.cpu_cores(root), 0),
            memory_gb=self._part("memory", lambda: gigabytes(host.memory_bytes(root)), unknown),
            disk_gb=self._part("disk", lambda: gigabytes(host.disk_bytes(self._data_dir)), unknown),
            gpu_count=len(gpus),
            gpu=gpus,
        )

    def load(self) -> Load | None:
        """Returns how much is in use, of the CPU since the last call; None where the kernel does not tell."""
        root = self._root
        earlier, self._cpu = self._cpu, self._part("cpu load", lambda: host.cpu_time(root), None)
        used = self._part("memory load", lambda: host.memory_in_use_bytes(root), None)
        if self._cpu is None or used is None:
            return None
        busy, whole = self._cpu if earlier is None else _since(self._cpu, earlier)
        gpus: list[float] = []
        for kind in self._kinds:
            gpus += self._part(f"{kind.name} load", partial(kind.loads, root), ())
        return Load(
            cpu=share(busy, whole),
            memory=share(used, host.memory_bytes(root)),
            gpu=min(gpus) if gpus else None,
        )

    def _gpus(self) -> tuple[Gpu, ...]:
        found: list[Gpu] = []
        none: Sequence[Gpu] = ()
        for kind in self._kinds:
            some = self._part(kind.name, partial(kind.find, self._root), none)
            # NVML shows the GPU of a newer Jetson too.
            found += [gpu for gpu in some if not (gpu.integrated and any(one.integrated for one in found))]
        return tuple(found[:GPUS_MAX])

    def _part(self, name: str, find: Callable[[], _T], absent: _T) -> _T:
        try:
            found = find()
        except Exception as error:  # noqa: BLE001 - a driver's library may raise anything, and is one part of many
            if name not in self._failing:
                _log.warning("a part of this host is not detected", part=name, detail=f"{error!r}"[:300])
            self._failing.add(name)
            return absent
        self._failing.discard(name)
        return found


def _since(now: CpuTime, earlier: CpuTime) -> CpuTime:
    return CpuTime(now.busy - earlier.busy, now.whole - earlier.whole)
