"""Doubt: when an agent must not believe that its services fail, because it may be itself that does."""

from __future__ import annotations

from typing import Final, Literal

from pmoves_mesh.core.health import Finding, Pace
from pmoves_mesh.core.model import InstanceKey

Cause = Literal["this agent is late", "no probe hears anything"]

LATE_MAX_S: Final = 1.0
TOGETHER_MIN: Final = 4

_SILENT_ROUNDS_MAX: Final = 6
_SAME_ROUND: Final = 2.0
"""Intervals that one round may take: each probe has its own moment in it, its jitter and its timeout."""


class Doubt:
    """Follows an agent's probes, and says whether their failures count.

    There are two reasons to doubt. The agent was late itself: then a probe that was under way may
    have run out of its time in here. Or four instances or more, which is all there are, fell silent
    within the same round: then it is likelier that the agent lost its network, or its files. That
    doubt lasts six rounds and no longer, so that no dead service is kept as a ghost for ever, and it
    ends with the first answer. A refusal is an answer: it was the other end that gave it.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._silent_since_s: dict[InstanceKey, float | None] = {}
        self._silent = 0
        self._late_until_s = float("-inf")
        self._silent_until_s = float("-inf")

    def expect(self, key: InstanceKey) -> None:
        """Takes an instance among those that are probed."""
        self._silent_since_s.setdefault(key, None)

    def forget(self, key: InstanceKey) -> None:
        """Takes an instance out again."""
        if self._silent_since_s.pop(key, None) is not None:
            self._silent -= 1

    def late(self, late_s: float, now_s: float) -> None:
        """Takes in by how many seconds the agent missed a moment at which it meant to act."""
        if late_s > LATE_MAX_S:
            # By then whatever is under way now has ended.
            self._late_until_s = now_s + self._pace.timeout_s

    def found(self, key: InstanceKey, finding: Finding, now_s: float) -> None:
        """Takes in what a probe found."""
        if finding.passed is None:
            self.forget(key)
            return
        self.expect(key)
        if finding.passed or finding.answered:
            self._silent -= self._silent_since_s[key] is not None
            self._silent_since_s[key] = None
            self._silent_until_s = now_s
        elif self._silent_since_s[key] is None:
            self._silent_since_s[key] = now_s
            self._silent += 1
            if self._silent == len(self._silent_since_s) >= TOGETHER_MIN and self._at_once():
                self._silent_until_s = now_s + _SILENT_ROUNDS_MAX * self._pace.interval_s

    def cause(self, now_s: float) -> Cause | None:
        """Returns why failures do not count now, or None if they do."""
        if now_s < self._late_until_s:
            return "this agent is late"
        if now_s < self._silent_until_s:
            return "no probe hears anything"
        return None

    def _at_once(self) -> bool:
        """Returns whether all who are silent fell silent in the same round."""
        since = [moment_s for moment_s in self._silent_since_s.values() if moment_s is not None]
        return max(since) - min(since) <= _SAME_ROUND * self._pace.interval_s
