"""What `doctor` finds: how checks complain, and how they are run so that none hides another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pmoves_mesh.config import Config
from pmoves_mesh.pki.inventory import Severity

RANKS: Final[Mapping[Severity, int]] = {"alarm": 0, "warning": 1, "ok": 2}


class Complaint(NamedTuple):
    """Something that is not as it should be, and what to do about it."""

    severity: Severity
    what: str
    remedy: str


class Finding(NamedTuple):
    """What one check says: a complaint, or that all is well (then there is no remedy)."""

    check: str
    severity: Severity
    what: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class AgentState:
    """What this host's agent said when it was asked.

    Attributes:
        url: where it was asked.
        alive: whether an agent answers there.
        current: whether its replica holds everything that the stream holds.
        registry: what its status says of itself; None if it gave none.
        nodes: what its status says of the nodes.
        problem: why there is no status; empty if there is one.
    """

    url: str
    alive: bool = False
    current: bool = False
    registry: Mapping[str, Any] | None = None
    nodes: Sequence[Mapping[str, Any]] = field(default=())
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that a check looks at.

    Attributes:
        now_ms: this host's time, unix milliseconds.
    """

    config: Config
    now_ms: int
    agent: AgentState


class Check(NamedTuple):
    """One check: its name, how it looks, and what it says if there is nothing to complain about."""

    name: str
    look: Callable[[Host], Iterable[Complaint]]
    fine: str


def run_checks(host: Host, checks: Iterable[Check]) -> list[Finding]:
    """Runs every check and returns what they found, the worst first.

    A check that fails is an alarm of its own, beside what it found until then.
    """
    found = [finding for check in checks for finding in _run(host, check)]
    return sorted(found, key=lambda finding: RANKS[finding.severity])


def _run(host: Host, check: Check) -> Iterator[Finding]:
    complained = False
    try:
        for complaint in check.look(host):
            complained = True
            yield Finding(check.name, *complaint)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are wanted all the same
        problem = " ".join(str(error).split()) or type(error).__name__
        yield Finding(check.name, "alarm", f"this check failed: {problem}", "see to that, then run it again")
        return
    if not complained:
        yield Finding(check.name, "ok", check.fine, "")
