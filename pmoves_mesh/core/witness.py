"""When a silence means that a node is lost: the rules by which witnesses judge, with no clock of their own.

Every agent is a witness, and none is the leader. What a witness sees is a suspicion: a lease ran
out, a connection ended, announcements stay away. It becomes a loss once it has lasted, and the one
who says so is chosen by a hash of the names, which all agents reckon alike; the others follow, each
a little later, in case that one is gone too.

Source: the choice is rendezvous hashing (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Final

from pmoves_mesh.core.model import Stamp

TURN_S: Final = 0.4
"""Between one witness and the next: longer than a loss takes from one agent to all others."""

FOLLOWERS_MAX: Final = 3
"""How many witnesses follow up an ended connection; if none of them lives, the lease tells soon enough."""

BROKEN_S: Final = 1.0
"""How long an ended connection may have no successor: an agent connects anew within 0.2 s."""

MISSED_MAX: Final = 3
"""After how many announcements that did not come an unsigned node is lost."""

STORM_MIN: Final = 3

_REPEATED_MAX: Final = 15
_REFRESHES_PER_TTL: Final = 3
_RETURN_S: Final = 1.0
_WEIGHT_BYTES: Final = 8


def rank(own: str, about: str, names: Iterable[str], most: int | None = None) -> int:
    """Returns how many witnesses come before `own` in the order of those who judge `about`.

    Args:
        own: the witness that asks.
        about: whom they judge; never a witness of itself.
        names: the witnesses, in any order; `own` need not be among them.
        most: no more than so many are counted, which takes a few names of a large mesh and not all.
    """
    mine = _weight(about, own)
    before = (name for name in names if name not in {own, about} and _weight(about, name) > mine)
    return sum(1 for _ in islice(before, most))


def _weight(about: str, name: str) -> bytes:
    return blake2b(f"{about}\n{name}".encode(), digest_size=_WEIGHT_BYTES).digest()


def is_storm(silent: int, together: int) -> bool:
    """Returns whether so many nodes fell silent at once that it is likelier that the mesh itself failed.

    Then each gets one more lease time to be heard again, and no more than that: nobody is kept as a
    ghost for ever.

    Args:
        silent: nodes that seem lost, or were stated lost within a lease's time.
        together: all nodes that lived before that.
    """
    return silent >= STORM_MIN and 2 * silent > together


def answering_s(ttl_s: float) -> float:
    """Returns the seconds that a node whose lease ran out still has, if its host answers.

    A stopped process cannot tell when it was stopped: perhaps just before its next refresh. It may
    stand still for a whole `ttl_s` all the same, and then has a moment to be heard again. A host that
    has vanished needs no such mercy.

    Args:
        ttl_s: of the lease, which is refreshed every third of it.
    """
    return ttl_s / _REFRESHES_PER_TTL + _RETURN_S


def absence_max_s(ttl_s: float) -> float:
    """Returns for how many seconds a node may be seen to have no lease, when no marker told of its end.

    After a restart of the server all leases are gone, and everybody has a whole `ttl_s` to write its own
    anew, and a third of that until its next refresh.
    """
    return ttl_s + answering_s(ttl_s)


def announce_interval_s(announce_s: float, nodes: int) -> float:
    """Returns after how many seconds at most a node announces what changed; it grows a little with the mesh.

    Args:
        announce_s: the pause in a mesh of up to two nodes.
        nodes: how many nodes the mesh has.
    """
    return announce_s * max(1.0, math.log2(max(1, nodes)))


def repeat_interval_s(announce_s: float, nodes: int) -> float:
    """Returns the pause between a node's repetitions of an announcement that still holds.

    Every node verifies every other's. So from some hundred nodes on the pause grows as the mesh does,
    and all nodes together repeat no more than 15 in each `announce_s`.

    Args:
        announce_s: the pause in a mesh of up to two nodes.
        nodes: how many nodes the mesh has.
    """
    return max(announce_interval_s(announce_s, nodes), announce_s * nodes / _REPEATED_MAX)


def first_share(node: str) -> float:
    """Returns after which part of that pause, from 0 to 1, a node first repeats what it announced.

    So nodes that announced themselves together, as after a restart of all, do not repeat it together.
    """
    return int.from_bytes(_weight("repetition", node)) / 256**_WEIGHT_BYTES


def silence_max_s(announce_s: float, nodes: int) -> float:
    """Returns for how many seconds a node without a lease may announce nothing."""
    return MISSED_MAX * announce_interval_s(announce_s, nodes)


class Spells:
    """Since when something has been so of each node: as long as it is seen again and again, at one stamp.

    Whatever a node says begins its spell anew.
    """

    def __init__(self) -> None:
        self._begun: dict[str, tuple[Stamp, float]] = {}

    def see(self, found: Mapping[str, Stamp], now_s: float) -> None:
        """Takes note of all of whom it is so now, each with its latest stamp; ends the others' spells."""
        begun = self._begun
        self._begun = {
            name: begun[name] if name in begun and begun[name][0] == stamp else (stamp, now_s)
            for name, stamp in found.items()
        }

    def clear(self) -> None:
        """Ends all spells, since what was seen was not to be relied on."""
        self._begun.clear()

    def lasting(self, now_s: float) -> dict[str, float]:
        """Returns how many seconds each spell has lasted."""
        return {name: now_s - begun_s for name, (_, begun_s) in self._begun.items()}


class Recent:
    """What happened a short time ago, and to whom; the oldest is forgotten first.

    Args:
        names_max: how many are remembered.
    """

    def __init__(self, names_max: int) -> None:
        self._names_max = names_max
        self._at: dict[str, float] = {}

    def note(self, name: str, now_s: float) -> None:
        """Takes note of something that happened now."""
        self._at.pop(name, None)
        self._at[name] = now_s
        if len(self._at) > self._names_max:
            del self._at[next(iter(self._at))]

    def within(self, seconds: float, now_s: float) -> set[str]:
        """Returns to whom it happened in the last seconds."""
        return {name for name, at_s in self._at.items() if now_s - at_s <= seconds}
