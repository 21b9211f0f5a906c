"""Load: how much of a host is in use. It never enters the stream; a node's lease carries it.

A lease is written every third of its time anyway, and is gone soon after its node: so whoever finds
one knows how old the load in it can be, whatever the clocks of the two hosts say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0, le=1)]
"""Of the whole: 0 is idle, 1 is all of it."""

_STEP: Final = 0.05


class Load(Struct, frozen=True, kw_only=True, gc=False):
    """How much of a host is in use.

    Attributes:
        cpu: of all cores, in the last few seconds.
        memory: what no program could have more of.
        gpu: of the GPU that has the most left: of its time or of its memory, whichever is the more;
            None where there is no GPU, or none that tells.
    """

    cpu: Share
    memory: Share
    gpu: Share | None = None


class LoadView(Load, frozen=True, kw_only=True, gc=False):
    """The load of a node as readers get it.

    Attributes:
        age_s: seconds since it was read here. The node wrote it up to a lease's time before that.
        stale: whether the node may have gone, or changed altogether, since; then nothing is decided by it.
    """

    age_s: float
    stale: bool


class Survey(Struct, frozen=True, kw_only=True):
    """What was found out about nodes beyond what they announced.

    Attributes:
        loads: by node; a node of which nothing is known is left out.
        round_trips_ms: milliseconds to each node's agent and back; 0 for the asker's own node.
    """

    loads: Mapping[str, LoadView] = {}
    round_trips_ms: Mapping[str, float] = {}


def share(used: float, whole: float) -> float:
    """Returns a share, rounded to a hundredth, whatever is given: never below 0, never above 1."""
    if whole <= 0:
        return 0.0
    return round(min(1.0, max(0.0, used / whole)), 2)


def burden(load: Load, *, gpu: bool) -> tuple[float, float]:
    """Returns by what nodes are compared, the least loaded first.

    Args:
        load: of a node.
        gpu: whether a GPU is what counts; then the CPU and the memory only break a tie.

    Returns:
        Steps of a twentieth, so that of two that are as good as idle the nearer one is taken.
    """
    host = max(load.cpu, load.memory)
    first = load.gpu if gpu and load.gpu is not None else host
    return _stepped(first), _stepped(host)


def _stepped(value: float) -> float:
    return round(value / _STEP) * _STEP
