"""Showing events: each as it stands in the stream, its signature verified as it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, get_args, get_type_hints

import msgspec

from pmoves_mesh.agent.history.replay import Replayer
from pmoves_mesh.core import decrees, envelope, moments
from pmoves_mesh.core.event import EVENT_TYPES, STREAM_SUBJECTS
from pmoves_mesh.core.history import EventsFollowed, EventsWanted, EventView, Selection, Told, spot
from pmoves_mesh.core.moments import Kept, Moment
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.registry import Registry, Turn
from pmoves_mesh.errors import CertificateRevoked, RemoteProtocolError
from pmoves_mesh.log.past import NatsPast
from pmoves_mesh.log.subjects import overlap
from pmoves_mesh.ports import LogMessage

_SCANNED_MAX: Final = 20_000
"""How many events are looked at for one page; the reader goes on from there."""

_WINDOW_MIN: Final = 200
_WINDOW_MAX: Final = 4000
_SHOWN_KEPT_MAX: Final = 2000
_SHOWN_BYTES_MAX: Final = 4096
_PAGE_BYTES_MAX: Final = 8 * 2**20

_SUBJECT_OF: Final = {get_args(get_type_hints(kind)["type"])[0]: kind.subject for kind in EVENT_TYPES}
"""The subject on which an event says that it is of a type."""

_encode: Final = msgspec.json.Encoder().encode


class Showing:
    """Lists the stream's events, and follows them."""

    def __init__(self, past: NatsPast, replayer: Replayer) -> None:
        self._past = past
        self._replayer = replayer
        self._decreed = Registry()
        self._shown: dict[tuple[str, int], EventView] = {}

    async def listed(self, wanted: EventsWanted) -> dict[str, Any]:
        """Returns a page of events, as `/api/events` shows it.

        Raises:
            BeforeHistoryError: if it should begin or end before the stream does.
            InvalidFieldError: if the stream has not come so far.
            LogUnavailable: if the log cannot be reached.
        """
        kept = await self._past.kept()
        self._decreed = await self._replayer.prepare()
        after, last = await self._range(wanted, kept)
        page = _Page(wanted.limit)
        subjects = subjects_of(wanted.selection)
        if subjects != ("",):
            for begin, end in _windows(after, last, newest_first=wanted.newest_first):
                await self._gather(page, wanted, begin, end, subjects, kept.stream_id)
                if page.is_full:
                    break
        return {
            "count": len(page.events),
            "events": page.events,
            "first": spot(kept.first, kept.first_ms),
            "last": spot(kept.last, kept.last_ms),
            "more": page.more(after, last, newest_first=wanted.newest_first),
            "next": page.next,
        }

    async def follow(self, wanted: EventsFollowed) -> AsyncGenerator[list[EventView], None]:
        """Yields the events that a reader wants as they come, in groups, without end.

        The first group is empty: it says that nothing is missed from now on.

        Raises:
            LogUnavailable: if the log cannot be reached, or no more.
        """
        kept = await self._past.kept()
        self._decreed = await self._replayer.prepare()
        subjects = subjects_of(wanted.selection)
        after = kept.last if wanted.after is None else max(min(wanted.after, kept.last), kept.first - 1)
        filtered = () if subjects == ("",) else subjects
        yield []
        async with aclosing(self._past.follow(after, filtered)) as groups:
            async for messages in groups:
                chosen = [
                    await self._view(message, kept.stream_id)
                    for message in messages
                    if _may_match(message, wanted.selection)
                ]
                fitting = [event for event in chosen if _matches(event, wanted.selection)]
                if fitting:
                    yield fitting

    def told(self, event: EventView) -> Told:
        """Returns an event as JSON."""
        return Told(body=_encode(event), position=event.position)

    async def _range(self, wanted: EventsWanted, kept: Kept) -> tuple[int, int]:
        """Returns the positions between which a page lies: behind the first, up to the second."""
        after, last = kept.first - 1, kept.last
        for moment in (wanted.since, wanted.until):
            if moment is not None:
                moments.check(moment, kept, kept.first, kept.first_ms)
        if wanted.since is not None:
            after = max(after, await self._before(wanted.since, kept))
        if wanted.until is not None:
            last = min(last, await self._up_to(wanted.until, kept))
        if wanted.after is not None:
            after = max(after, wanted.after)
        if wanted.before is not None:
            last = min(last, wanted.before - 1)
        return after, last

    async def _before(self, moment: Moment, kept: Kept) -> int:
        if moment.position is not None:
            return moment.position - 1
        if moment.time_ms is None:
            return kept.last
        return await self._past.position_before(moment.time_ms, kept)

    async def _up_to(self, moment: Moment, kept: Kept) -> int:
        if moment.position is not None:
            return moment.position
        if moment.time_ms is None:
            return kept.last
        return await self._past.position_before(moment.time_ms + 1, kept)

    async def _gather(
        self, page: _Page, wanted: EventsWanted, begin: int, end: int, subjects: Sequence[str], stream: str
    ) -> None:
        """Looks through one stretch of the stream."""
        found = []
        async with aclosing(self._past.stretch(begin, end, subjects)) as groups:
            async for messages in groups:
                found += [message for message in messages if _may_match(message, wanted.selection)]
        page.scanned += end - begin
        page.reached = begin if wanted.newest_first else end
        for message in reversed(found) if wanted.newest_first else found:
            event = await self._view(message, stream)
            if _matches(event, wanted.selection):
                page.add(event)
                if page.has_enough:
                    page.reached = event.position - 1 if wanted.newest_first else event.position
                    return

    async def _view(self, message: LogMessage, stream_id: str) -> EventView:
        key = (stream_id, message.position)
        known = self._shown.get(key)
        if known is None:
            known = await self._verified(message)
            if known.refused or known.size > _SHOWN_BYTES_MAX:
                return known  # the first may be due to a certificate that comes late
            if len(self._shown) >= _SHOWN_KEPT_MAX:
                self._shown.clear()
            self._shown[key] = known
        return known

    async def _verified(self, message: LogMessage) -> EventView:
        verifier, sealed = self._replayer.verifier, message.sealed
        refused, verified = "", False
        try:
            for one in await verifier.unseal(message):
                verified = one.verified
                if decrees.is_revoked(self._decreed, one, position=message.position):
                    raise CertificateRevoked(one.signer, self._decreed.revoked[one.fingerprint])
                if isinstance(one.event, decrees.DECREES):
                    decrees.decreed(self._decreed, one.event, Turn(message.position, message.time_ms))
        except RemoteProtocolError as error:
            refused = f"{error.reason}: {error}"[:300]
            verified = False
        fingerprint = (envelope.signer_of(sealed) or "")[:64]
        signer = verifier.trust.signer(fingerprint)
        data = _payload(sealed.payload)
        return EventView(
            position=message.position,
            time=iso(message.time_ms),
            subject=sealed.subject,
            size=len(sealed.payload),
            verified=verified,
            signer=signer.id if signer else "",
            fingerprint=fingerprint,
            refused=refused,
            data=data,
            **_said(data, sealed.subject),
        )


class _Page:
    """What is gathered for one answer.

    Attributes:
        scanned: how many positions were looked at.
        reached: up to where, in the order in which they are looked at.
        next: where a reader goes on; None if there is nothing more.
    """

    def __init__(self, limit: int) -> None:
        self.events: list[EventView] = []
        self._bytes = 0
        self.scanned = 0
        self.reached: int | None = None
        self.next: int | None = None
        self._limit = limit

    @property
    def is_full(self) -> bool:
        return self.has_enough or self.scanned >= _SCANNED_MAX

    @property
    def has_enough(self) -> bool:
        return len(self.events) >= self._limit or self._bytes >= _PAGE_BYTES_MAX

    def add(self, event: EventView) -> None:
        """Takes an event in."""
        self.events.append(event)
        self._bytes += event.size

    def more(self, after: int, last: int, *, newest_first: bool) -> bool:
        """Returns whether there may be more, and sets from where on."""
        if self.reached is None:
            return False
        left = self.reached > after if newest_first else self.reached < last
        if left:
            self.next = self.reached + 1 if newest_first else self.reached
        return left


def subjects_of(selection: Selection) -> tuple[str, ...]:
    """Returns the subjects of the stream that a selection leaves, which may hold wildcards; none if all do.

    One that no event can have leaves an empty one.
    """
    wanted = [text for text in (selection.subject, _SUBJECT_OF.get(selection.type)) if text]
    if not wanted:
        return ()
    found: tuple[str, ...] = STREAM_SUBJECTS
    for pattern in wanted:
        found = tuple(_narrowed(pattern, one) for one in found if overlap(pattern, one))
    return found or ("",)


def _narrowed(pattern: str, claim: str) -> str:
    """Returns the subjects that both of two patterns match, of which the second has no `>`."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        tokens = [*tokens[:-1], *claim.split(".")[len(tokens) - 1 :]]
    return ".".join(b if a == "*" else a for a, b in zip(tokens, claim.split("."), strict=True))


def _windows(after: int, last: int, *, newest_first: bool) -> Iterator[tuple[int, int]]:
    """Yields stretches that together are a range, growing, so that a page near its end costs little."""
    width = _WINDOW_MIN
    while last > after:
        if newest_first:
            begin = max(after, last - width)
            yield begin, last
            last = begin
        else:
            end = min(last, after + width)
            yield after, end
            after = end
        width = min(width * 2, _WINDOW_MAX)


def _may_match(message: LogMessage, selection: Selection) -> bool:
    """Returns whether an event can be wanted, by a look at its bytes: what it names is among them."""
    payload = message.sealed.payload
    return all(name.encode() in payload for name in (selection.node, selection.service, selection.id) if name)


def _matches(event: EventView, selection: Selection) -> bool:
    if selection.subject and not overlap(selection.subject, event.subject):
        return False
    pairs = (
        (selection.node, event.node),
        (selection.service, event.service),
        (selection.id, event.id),
        (selection.type, event.type),
    )
    return all(wanted in {"", found} for wanted, found in pairs)


def _payload(payload: bytes) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _said(data: Any, subject: str) -> dict[str, Any]:
    """Returns what an event says of itself, whether or not it may be believed."""
    said = data if isinstance(data, dict) else {}
    inner = said.get("data")
    record = inner if isinstance(inner, dict) else {}
    return {
        "type": _text(said.get("type")) or subject,
        "node": _text(said.get("node") or said.get("node_id")),
        "service": _text(said.get("service") or record.get("name")),
        "id": _text(said.get("id") or record.get("id")),
        "incarnation": _number(said.get("incarnation")),
        "revision": _number(said.get("revision")),
    }


def _text(value: Any) -> str:
    return value[:256] if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else 0
