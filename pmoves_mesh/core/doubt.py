"""Doubt: when an agent must not believe that its services fail, because it may be itself that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pmoves_mesh.core.health import Finding, Pace
from pmoves_mesh.core.model import InstanceKey

Cause = Literal["this agent is late", "no probe hears anything"]

LATE_MAX_S: Final = 1.0
TOGETHER_MIN: Final = 4

_SILENT_ROUNDS_MAX: Final = 6
_SAME_ROUND: Final = 2.0
"""Intervals that one round may take: each probe has its own moment in it, its jitter and its timeout."""


@dataclass(slots=True)
class _Probed:
    """An instance that is probed.

    Attributes:
        silent_since_s: when the first of the probes in a row was that heard nothing; None if the
            latest one heard something.
    """

    pace: Pace
    silent_since_s: float | None = None


@dataclass(slots=True)
class _Round:
    """The instances that are probed at one interval: how many there are, and how many are silent."""

    probed: int = 0
    silent: int = 0


class Doubt:
    """Follows an agent's probes, and says whether their failures count.

    There are two reasons to doubt. The agent was late itself: then a probe that was under way may
    have run out of its time in here. Or four instances or more, which is all there are, fell silent
    within the same round: then it is likelier that the agent lost its network, or its files. That
    doubt lasts six rounds and no longer, so that no dead service is kept as a ghost for ever, and it
    ends with the first answer. A refusal is an answer: it was the other end that gave it. An instance
    whose interval is longer than two of the others' is not waited for: it may not be asked for hours.
    """

    def __init__(self) -> None:
        self._probed: dict[InstanceKey, _Probed] = {}
        self._rounds: dict[float, _Round] = {}
        self._late_until_s = float("-inf")
        self._silent_until_s = float("-inf")

    def expect(self, key: InstanceKey, pace: Pace) -> None:
        """Takes an instance among those that are probed, or changes how often it is."""
        held = self._probed.get(key)
        if held is not None and held.pace == pace:
            return
        self.forget(key)
        self._probed[key] = _Probed(pace)
        self._rounds.setdefault(pace.interval_s, _Round()).probed += 1

    def forget(self, key: InstanceKey) -> None:
        """Takes an instance out again."""
        held = self._probed.pop(key, None)
        if held is None:
            return
        round_ = self._rounds[held.pace.interval_s]
        round_.probed -= 1
        round_.silent -= held.silent_since_s is not None
        if not round_.probed:
            del self._rounds[held.pace.interval_s]

    def late(self, late_s: float, now_s: float) -> None:
        """Takes in by how many seconds the agent missed a moment at which it meant to act."""
        if late_s > LATE_MAX_S:
            # By then whatever is under way now has ended.
            timeouts_s = (held.pace.timeout_s for held in self._probed.values())
            self._late_until_s = now_s + max(timeouts_s, default=0.0)

    def found(self, key: InstanceKey, finding: Finding, now_s: float, pace: Pace) -> None:
        """Takes in what a probe found."""
        if finding.passed is None:
            self.forget(key)
            return
        self.expect(key, pace)
        held = self._probed[key]
        round_ = self._rounds[pace.interval_s]
        if finding.passed or finding.answered:
            round_.silent -= held.silent_since_s is not None
            held.silent_since_s = None
            self._silent_until_s = now_s
        elif held.silent_since_s is None:
            held.silent_since_s = now_s
            round_.silent += 1
            if longest_s := self._longest_if_all_silent():
                self._silent_until_s = now_s + _SILENT_ROUNDS_MAX * longest_s

    def cause(self, now_s: float) -> Cause | None:
        """Returns why failures do not count now, or None if they do."""
        if now_s < self._late_until_s:
            return "this agent is late"
        if now_s < self._silent_until_s:
            return "no probe hears anything"
        return None

    def _longest_if_all_silent(self) -> float:
        """Returns the longest interval of those that are silent, if all fell silent in one round; else 0."""
        longest_s = max((interval_s for interval_s, one in self._rounds.items() if one.silent), default=0.0)
        limit_s = _SAME_ROUND * longest_s
        asked = [one for interval_s, one in self._rounds.items() if interval_s <= limit_s]
        if sum(one.silent for one in asked) < TOGETHER_MIN or any(one.silent < one.probed for one in asked):
            return 0.0
        since = [held.silent_since_s for held in self._probed.values() if held.silent_since_s is not None]
        return longest_s if max(since) - min(since) <= limit_s else 0.0
