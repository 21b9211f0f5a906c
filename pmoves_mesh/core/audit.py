"""The audit: checks a stream from its first event to its last, and keeps the first thing that is wrong.

An agent asks of an event whether it may be believed. An audit asks of the stream whether it is
still what its authors wrote: every event signed by whoever may state it, and every event of a
node following on the one that the node stated before.

The registry bucket is a second witness: what it holds of the stream's time must be in the stream.

What a node repeats (an announcement, the older word for a removal) has a time to live, so it may
be missing, and positions with it; it is no link of the chain. Events of witnesses and operators
name none before them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent, VerifiedEvent
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    Event,
    InstanceEvicted,
    InstanceExpired,
    InstanceUnregistered,
    NodeLost,
    RootsRotated,
)
from pmoves_mesh.core.model import NEVER, Stamp
from pmoves_mesh.errors import RemoteProtocolError

FINDINGS_MAX: Final = 1000
"""More are counted, and not kept."""

_REFUSED_KEPT_MAX: Final = 100_000
_BEGINNINGS_MAX: Final = 1000
_RECENT_MAX: Final = 512
"""More than a node sends once more after a crash: its outbox forgets up to 256 at a time."""

_FIRST_REVISION: Final = 1
_DECREES: Final = (InstanceEvicted, CertificatesRevoked, RootsRotated)
_UNCHAINED: Final = (NodeLost, InstanceExpired)

_NO_BEGINNING: Final = (
    "it follows on an event that is not in the stream, which begins here: "
    "its node's first events were removed, or the stream was made anew"
)
_FOLLOWS_MISSING: Final = "it follows on an event of its node that is not in the stream"
_FOLLOWS_NOTHING: Final = "it follows on nothing, in the middle of its node's history"
_FOLLOWED_TWICE: Final = "it follows on an event that another one followed on already"
_REPEATS_MISSING: Final = "it repeats an event of its node that is not in the stream"
_PLACE_TAKEN: Final = "another event has its place in its node's order already"
_CUT: Final = "the registry bucket holds it, and it is not in the stream"
_BEFORE: Final = "it stands before the event of its node that it follows on"


class Finding(Struct, frozen=True, kw_only=True):
    """Something in the stream that should not be so.

    Attributes:
        position: where it shows.
        signer: SPIFFE ID, or what the event names in its place.
        reason: that of a refusal, or of the chain: `gap` an event is missing before this one,
            `order` it stands before the one it follows on, `fork` another has its place already,
            `cut` the registry bucket holds it and the stream does not; its position is the bucket's.
    """

    position: int
    subject: str
    signer: str
    reason: str
    detail: str


class Beginning(Struct, frozen=True, kw_only=True):
    """A node that was there before began its chain anew, as it does when its disk was lost."""

    position: int
    node: str


class Report(Struct, frozen=True, kw_only=True):
    """What an audit found.

    Attributes:
        first: the stream's first position.
        last: the last position that was checked.
        events: how many were checked.
        kinds: of those that hold, how many on each subject.
        signers: of those, how many by each SPIFFE ID; `` for unsigned ones.
        reasons: how many findings of each reason.
        findings: in the order of the stream, at most 1000.
        beginnings: chains that began anew: nobody can tell if their nodes said more before.
    """

    first: int
    last: int
    events: int
    kinds: Mapping[str, int]
    signers: Mapping[str, int]
    reasons: Mapping[str, int]
    findings: Sequence[Finding]
    beginnings: Sequence[Beginning]

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.reasons


class _Chain:
    """How far a node's chain was followed.

    Attributes:
        stamp: of its latest link.
        recent: the digests of its latest links, the last one being the head.
        aside: those of its latest events that stood behind.
    """

    __slots__ = ("aside", "recent", "stamp")

    def __init__(self) -> None:
        self.stamp: Stamp = NEVER
        self.recent: deque[str] = deque(maxlen=_RECENT_MAX)
        self.aside: deque[str] = deque(maxlen=_RECENT_MAX)

    @property
    def head(self) -> str:
        return self.recent[-1] if self.recent else ""


class Audit:
    """Takes a stream's messages in order, one at a time, each either accepted or refused."""

    def __init__(self, first: int) -> None:
        """Begins at the stream's first position; beyond 1, the stream has dropped what was before."""
        self._first: Final = first
        self._last = first - 1
        self._events = 0
        self._kinds: Counter[str] = Counter()
        self._signers: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._beginnings: list[Beginning] = []
        self._chains: dict[str, _Chain] = {}
        self._refused: dict[str, None] = {}
        self._awaited: dict[str, int] = {}
        self._decrees: set[str] = set()

    def accept(self, sealed: SealedEvent, verified: Sequence[VerifiedEvent], position: int) -> None:
        """Takes a message that may be believed, and what it states."""
        self._count(position)
        self._kinds[sealed.subject] += 1
        for one in verified[:1]:
            self._signers[one.signer] += 1
            if isinstance(one.event, _DECREES):
                self._decrees.add(one.digest)
            elif one.verified and not isinstance(one.event, _UNCHAINED):
                self._link(sealed, one, position)

    def refuse(
        self, sealed: SealedEvent, error: RemoteProtocolError, *, position: int, signer: str, digest: str
    ) -> None:
        """Takes a message that must not be believed.

        Args:
            sealed: the message.
            error: why not.
            position: where it stands.
            signer: who claims to have signed it.
            digest: what the node's next event names as `prev`, if this one is its own; empty if it has none.
        """
        self._count(position)
        if digest and len(self._refused) < _REFUSED_KEPT_MAX:
            self._refused[digest] = None
        self._find(
            Finding(
                position=position,
                subject=sealed.subject[:128],
                signer=signer,
                reason=error.reason,
                detail=str(error)[:300],
            )
        )

    def lacks(self, verified: VerifiedEvent) -> bool:
        """Returns whether the stream should hold an event that is known from elsewhere, and does not.

        Nothing follows on the last event of a node, nor on a decree, so only this shows that one is gone.
        """
        event = verified.event
        if isinstance(event, _DECREES):
            return verified.digest not in self._decrees
        if not verified.verified or isinstance(event, _UNCHAINED):
            return False
        chain = self._chains.get(event.node)
        return chain is None or event.stamp > chain.stamp

    def miss(self, verified: VerifiedEvent, position: int) -> None:
        """Takes an event that the stream lacks."""
        self._find(
            Finding(
                position=position,
                subject=verified.event.subject,
                signer=verified.signer,
                reason="cut",
                detail=_CUT,
            )
        )

    def report(self) -> Report:
        """Returns what was found so far."""
        return Report(
            first=self._first,
            last=self._last,
            events=self._events,
            kinds=dict(sorted(self._kinds.items())),
            signers=dict(sorted(self._signers.items())),
            reasons=dict(sorted(self._reasons.items())),
            findings=tuple(self._findings),
            beginnings=tuple(self._beginnings),
        )

    def _count(self, position: int) -> None:
        self._events += 1
        self._last = position

    def _link(self, sealed: SealedEvent, verified: VerifiedEvent, position: int) -> None:
        """Follows the chain of a node's own words."""
        event = verified.event
        chain = self._chains.setdefault(event.node, _Chain())
        repeats = isinstance(event, InstanceUnregistered) or sealed.message_id != envelope.stamped_id(event)
        if repeats:
            # It takes no place: what it repeats stood before it, if it ever stood there.
            problem = self._unrepeatable(chain, event)
        elif event.stamp > chain.stamp:
            problem = self._unfollowed(chain, event, position)
            chain.stamp = event.stamp
            chain.recent.append(verified.digest)
        else:
            problem = self._behind(chain, event, verified.digest, position)
        if problem is not None:
            reason, detail = problem
            index = self._find(
                Finding(
                    position=position,
                    subject=event.subject,
                    signer=verified.signer,
                    reason=reason,
                    detail=detail,
                )
            )
            if reason == "gap" and index is not None and not repeats:
                self._awaited.setdefault(event.prev, index)
        self._arrived(verified.digest)

    def _unfollowed(self, chain: _Chain, event: Event, position: int) -> tuple[str, str] | None:
        """Returns what is wrong with what an event says it follows on, or None."""
        if event.prev == chain.head or event.prev in self._refused or event.prev in chain.aside:
            return None
        if not chain.head:
            # Within its bounds a stream drops what is oldest, and the beginnings of chains with it.
            return None if self._first > 1 else ("gap", _NO_BEGINNING)
        if event.prev:
            return ("fork", _FOLLOWED_TWICE) if event.prev in chain.recent else ("gap", _FOLLOWS_MISSING)
        if event.incarnation > chain.stamp.incarnation and event.revision == _FIRST_REVISION:
            self._begin(event.node, position)
            return None
        return "gap", _FOLLOWS_NOTHING

    def _behind(self, chain: _Chain, event: Event, digest: str, position: int) -> tuple[str, str] | None:
        """Returns what is wrong with an event whose place was passed already, or None.

        One that was sent once more is known. Another is of a life before the clock was set back, and
        outdated for every replica; the node follows on it all the same.
        """
        if digest in chain.recent:
            return None
        if event.stamp == chain.stamp:
            return "fork", _PLACE_TAKEN
        chain.aside.append(digest)
        if not event.prev and event.revision == _FIRST_REVISION:
            self._begin(event.node, position)
        return None

    def _unrepeatable(self, chain: _Chain, event: Event) -> tuple[str, str] | None:
        """Returns what is wrong with a repetition, or None."""
        if event.stamp <= chain.stamp or (not chain.head and self._first > 1):
            return None
        return "gap", _REPEATS_MISSING

    def _begin(self, node: str, position: int) -> None:
        if len(self._beginnings) < _BEGINNINGS_MAX:
            self._beginnings.append(Beginning(position=position, node=node))

    def _arrived(self, digest: str) -> None:
        """Turns a gap into a matter of order, once the event that was missing comes after all."""
        index = self._awaited.pop(digest, None)
        if index is None:
            return
        finding = self._findings[index]
        self._reasons[finding.reason] -= 1
        self._reasons = +self._reasons
        self._reasons["order"] += 1
        self._findings[index] = msgspec.structs.replace(finding, reason="order", detail=_BEFORE)

    def _find(self, finding: Finding) -> int | None:
        """Counts a finding, and returns its index if it is kept."""
        self._reasons[finding.reason] += 1
        if len(self._findings) >= FINDINGS_MAX:
            return None
        self._findings.append(finding)
        return len(self._findings) - 1
