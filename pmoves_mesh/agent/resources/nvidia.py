"""NVIDIA's GPUs, through NVML where `nvidia-ml-py` is installed (`pmoves-mesh[nvidia]`).

Without it the kernel's driver still tells that they are there, but not how much memory they have.

Source: NVML API Reference, "Device Queries"; NVIDIA driver README, "The /proc Interface".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import structlog

from pmoves_mesh.agent.resources.files import read_fields, read_text
from pmoves_mesh.agent.resources.host import memory_bytes
from pmoves_mesh.core.load import share
from pmoves_mesh.core.resources import GPUS_MAX, TEXT_LENGTH_MAX, Gpu, gigabytes

_log: Final = structlog.get_logger(__name__)

_WINDOWS: Final = "usr/lib/wsl/lib/libnvidia-ml.so.1"
_SIGNS: Final = ("proc/driver/nvidia/version", "dev/nvidiactl", _WINDOWS)
"""What is there only with the driver; the last one with that of Windows, for a Linux inside it."""

_T = TypeVar("_T")


class Nvidia:
    """Every GPU that NVML shows."""

    name: Final = "nvidia"

    def __init__(self, load_library: Callable[[], ModuleType] | None = None) -> None:
        """Takes what imports NVML, for tests."""
        self._load_library = load_library or _import
        self._library: Any = None
        self._told = False
        self._left_out: set[int] = set()

    def find(self, root: Path) -> Sequence[Gpu]:
        """Returns those of a host; none where there is no driver, which is seen without loading anything."""
        if not _has_driver(root):
            return ()
        if (library := self._ready()) is None:
            named = _named_by_the_kernel(root)
            if (named or (root / _WINDOWS).exists()) and not self._told:
                _log.warning("NVIDIA GPUs are not read: pip install 'pmoves-mesh[nvidia]'")
                self._told = True
            return named
        return self._told_by(library, partial(_described, root=root))

    def loads(self, root: Path) -> Sequence[float]:
        """Returns how much of each is in use: of its time or of its memory, whichever is the more."""
        if not _has_driver(root) or (library := self._ready()) is None:
            return ()
        return [load for load in self._told_by(library, _load) if load is not None]

    def _told_by(self, library: Any, tell: Callable[[Any, Any], _T]) -> list[_T]:
        """Returns what is told of each GPU; what fails lets the next call begin anew.

        A GPU that is lost, or not this user's, is left out. Where all are, that is raised.
        """
        told: list[_T] = []
        failed: Exception | None = None
        try:
            for index in range(min(library.nvmlDeviceGetCount(), GPUS_MAX)):
                try:
                    told.append(tell(library, library.nvmlDeviceGetHandleByIndex(index)))
                except library.NVMLError as error:
                    self._leave_out(index, error)
                    failed = error
        except BaseException:
            self._library = None
            raise
        if failed is None:
            self._left_out.clear()
        else:
            self._library = None
        if failed is not None and not told:
            raise failed
        return told

    def _leave_out(self, index: int, error: Exception) -> None:
        if index not in self._left_out:
            _log.warning("a GPU is not read", index=index, detail=str(error)[:300])
        self._left_out.add(index)

    def _ready(self) -> Any:
        """Returns NVML, ready for use, or None where it is not installed."""
        library = self._library
        if library is None:
            try:
                library = self._load_library()
            except ImportError:
                return None
            library.nvmlInit()
            self._library = library
        return library


def _import() -> ModuleType:
    return importlib.import_module("pynvml")


def _has_driver(root: Path) -> bool:
    return any((root / sign).exists() for sign in _SIGNS)


def _described(library: Any, gpu: Any, root: Path) -> Gpu:
    memory = _asked(library, partial(library.nvmlDeviceGetMemoryInfo, gpu))
    version = _asked(library, library.nvmlSystemGetCudaDriverVersion) or 0
    return Gpu(
        vendor="nvidia",
        model=_text(library.nvmlDeviceGetName(gpu))[:TEXT_LENGTH_MAX],
        memory_gb=gigabytes(memory_bytes(root) if memory is None else memory.total),
        driver=_text(library.nvmlSystemGetDriverVersion()),
        runtime="cuda",
        cuda=f"{version // 1000}.{version % 1000 // 10}" if version else "",
        integrated=memory is None,  # a GPU without memory of its own has none to tell of
    )


def _load(library: Any, gpu: Any) -> float | None:
    rates = _asked(library, partial(library.nvmlDeviceGetUtilizationRates, gpu))
    memory = _asked(library, partial(library.nvmlDeviceGetMemoryInfo, gpu))
    shares = [
        *([] if rates is None else [share(rates.gpu, 100)]),
        *([] if memory is None else [share(memory.used, memory.total)]),
    ]
    return max(shares, default=None)


def _asked(library: Any, ask: Callable[[], _T]) -> _T | None:
    """Returns an answer, or None if this GPU has none to give."""
    try:
        return ask()
    except library.NVMLError_NotSupported:
        return None


def _named_by_the_kernel(root: Path) -> Sequence[Gpu]:
    version = read_text(root / "proc/driver/nvidia/version").partition("Kernel Module")[2]
    driver = next((word for word in version.split() if word[0].isdigit()), "")
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    models = [read_fields(file).get("Model", "") for file in files[:GPUS_MAX]]
    return [
        Gpu(vendor="nvidia", model=model[:TEXT_LENGTH_MAX], driver=driver, runtime="cuda") for model in models
    ]


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
