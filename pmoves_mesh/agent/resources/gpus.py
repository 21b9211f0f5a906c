"""What every kind of GPU is asked: what it is, and how busy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pmoves_mesh.core.resources import Gpu


class GpuKind(Protocol):
    """The GPUs of one kind. Both methods block, and raise whatever befalls them."""

    @property
    def name(self) -> str:
        """The kind, for the log."""

    def find(self, root: Path) -> Sequence[Gpu]:
        """Returns those of a host; none if there are none."""

    def loads(self, root: Path) -> Sequence[float]:
        """Returns how much of each is in use, 0 to 1; fewer if one does not tell."""
