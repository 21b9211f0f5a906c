"""What `doctor` finds: how checks complain, and how they are run so that none hides or delays another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.log.survey import Survey
from pmoves_mesh.pki.inventory import Severity

RANKS: Final[Mapping[Severity, int]] = {"alarm": 0, "warning": 1, "ok": 2}
WITHIN_S: Final = 5.0
"""How long all checks together may take; what was asked of agent and NATS before took as long at most."""

_ERRAND: Final = "doctor-errand"
_T = TypeVar("_T")


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
        services: what its status says of the instances.
        problem: why there is no status; empty if there is one.
    """

    url: str
    alive: bool = False
    current: bool = False
    registry: Mapping[str, Any] | None = None
    nodes: Sequence[Mapping[str, Any]] = field(default=())
    services: Sequence[Mapping[str, Any]] = field(default=())
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that a check looks at.

    Attributes:
        now_ms: this host's time, unix milliseconds.
        nats: what NATS said when it was asked.
    """

    config: Config
    now_ms: int
    agent: AgentState
    nats: Survey = field(default_factory=Survey)


class Check(NamedTuple):
    """One check: its name, how it looks, and what it says if there is nothing to complain about."""

    name: str
    look: Callable[[Host], Iterable[Complaint]]
    fine: str


def run_checks(host: Host, checks: Iterable[Check], within_s: float = WITHIN_S) -> list[Finding]:
    """Runs every check, side by side, and returns what they found, the worst first.

    A check that fails is an alarm of its own, beside what it found until then. One that is not done
    after `within_s` seconds is a warning, and left behind.
    """
    begun = [(check, Errand(partial(_findings, host, check))) for check in checks]
    give_up_s = SystemClock().monotonic_s() + within_s
    found = []
    for check, errand in begun:
        findings = errand.result(give_up_s - SystemClock().monotonic_s())
        found += [_unfinished(check, within_s)] if findings is None else findings
    return sorted(found, key=lambda finding: RANKS[finding.severity])


class Errand(Generic[_T]):
    """Something that is done meanwhile, and left behind if it takes too long: it must not raise."""

    def __init__(self, do: Callable[[], _T]) -> None:
        """Begins it at once."""
        self._done: _T | None = None
        # What hangs must not keep the command from ending.
        self._thread = threading.Thread(target=self._run, args=(do,), daemon=True, name=_ERRAND)
        self._thread.start()

    def _run(self, do: Callable[[], _T]) -> None:
        self._done = do()

    @staticmethod
    def any_left_behind() -> bool:
        """Returns whether one is still under way."""
        return any(thread.name == _ERRAND for thread in threading.enumerate())

    def result(self, within_s: float) -> _T | None:
        """Waits up to `within_s` seconds; returns None if it is not done by then."""
        self._thread.join(max(0.0, within_s))
        return self._done


def _unfinished(check: Check, within_s: float) -> Finding:
    what = f"not checked: it took longer than {within_s:g} s"
    return Finding(check.name, "warning", what, "see to what else is said here, then run it again")


def _findings(host: Host, check: Check) -> list[Finding]:
    return list(_run(host, check))


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
