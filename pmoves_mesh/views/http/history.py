"""The routes that tell of the past: what was there, what was said, and what differs between two moments."""

from __future__ import annotations

from typing import Annotated, Any, Final

from aiohttp import hdrs, web
from msgspec import Meta, Struct, field

from pmoves_mesh.core import moments
from pmoves_mesh.core.history import (
    Changed,
    EventsFollowed,
    EventsWanted,
    EventView,
    NodeChanges,
    Question,
    Selection,
    Spot,
    WhatChanged,
)
from pmoves_mesh.core.moments import Moment
from pmoves_mesh.core.names import AskedId, AskedLabelIfAny, parse_instance_id, shown
from pmoves_mesh.core.query import InstanceView
from pmoves_mesh.errors import InvalidFieldError, NotFoundError
from pmoves_mesh.views.http import following, inputs
from pmoves_mesh.views.http.answers import Answer
from pmoves_mesh.views.http.events import EVENT_STREAM
from pmoves_mesh.views.http.facade import FACADE, Historian
from pmoves_mesh.views.http.route import Parameter, Route
from pmoves_mesh.views.http.shapes import Problem

LIMIT_MAX: Final = 1000
LIMIT_DEFAULT: Final = 100

_PART_BYTES: Final = 64 * 1024
_DIGITS_MAX: Final = 18
_SUBJECT_MAX: Final = 128

AskedMoment = Annotated[str, Meta(max_length=40, examples=["now", "15m", "12345", "2026-11-25T12:00Z"])]
AskedPosition = Annotated[int, Meta(ge=0, le=10**_DIGITS_MAX - 1)]


class EventList(Struct, frozen=True, kw_only=True):
    """Events of the stream.

    Attributes:
        first: the oldest event that the stream holds.
        last: the newest one.
        more: whether there may be more that were asked for.
        next: the `after` (ascending) or `before` (descending) with which they are asked for.
    """

    count: int
    events: list[EventView]
    first: Spot
    last: Spot
    more: bool
    next: int | None


class Differences(Struct, frozen=True, kw_only=True):
    """What differs between two moments; what moves without news is no difference."""

    begin: Spot = field(name="from")
    end: Spot = field(name="to")
    added: list[InstanceView]
    removed: list[InstanceView]
    changed: list[Changed[InstanceView]]
    nodes: NodeChanges


async def events(request: web.Request) -> Answer | web.StreamResponse:
    """Answers `GET /api/events`: a page of them, or as they come, to whoever accepts an event stream."""
    if EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""):
        wanted = EventsFollowed(selection=_selection(request), after=_after(request))
        return await following.follow(request, historian(request), wanted)
    return await told(request, _events_wanted(request))


async def diff(request: web.Request) -> Answer:
    """Answers `GET /api/diff`."""
    begin = moment(request, "from")
    if begin is None:
        raise InvalidFieldError("from", "is missing: a position, a time, or how long ago, such as 1h")
    end = moment(request, "to") or Moment(field="to")
    return await told(request, WhatChanged(begin=begin, end=end))


async def told(request: web.Request, question: Question) -> Answer:
    """Returns the answer to a question about the past."""
    found = await historian(request).ask(question)
    body = memoryview(found.body)
    parts = [bytes(body[begin : begin + _PART_BYTES]) for begin in range(0, len(body), _PART_BYTES)]
    return Answer(parts=parts, position=found.position)


def moment(request: web.Request, parameter: str) -> Moment | None:
    """Returns the moment that a parameter names, or None if it is absent or empty.

    Raises:
        InvalidFieldError: if it names none.
    """
    text = request.query.get(parameter, "").strip()
    return moments.parse(text, parameter, request.app[FACADE].clock.now_ms()) if text else None


def historian(request: web.Request) -> Historian:
    """Returns who tells of the past here.

    Raises:
        NotFoundError: if nobody does.
    """
    found = request.app[FACADE].historian
    if found is None:
        raise NotFoundError("this agent does not tell of the past")
    return found


def _events_wanted(request: web.Request) -> EventsWanted:
    since, after = moment(request, "since"), _position(request, "after")
    order = request.query.get("order", "").strip().lower()
    if order not in {"", "asc", "desc"}:
        raise InvalidFieldError("order", f"{shown(order)} is neither asc nor desc")
    begins = since is not None or after is not None
    return EventsWanted(
        selection=_selection(request),
        since=since,
        until=moment(request, "until"),
        after=after,
        before=_position(request, "before"),
        limit=_limit(request),
        newest_first=order == "desc" or (not order and not begins),
    )


def _selection(request: web.Request) -> Selection:
    instance_id = request.query.get("id", "").strip()
    return Selection(
        subject=_subject(request),
        type=request.query.get("type", "").strip(),
        node=inputs.parse_name(request, "node") or "",
        service=inputs.parse_name(request, "service") or "",
        id=parse_instance_id(instance_id) if instance_id else "",
    )


def _subject(request: web.Request) -> str:
    text = request.query.get("subject", "").strip()
    tokens = text.split(".")
    if text and (
        len(text) > _SUBJECT_MAX
        or not text.isascii()
        or not text.isprintable()
        or " " in text
        or not all(tokens)
        or ">" in tokens[:-1]
    ):
        raise InvalidFieldError("subject", f"{shown(text)} is no subject, such as service.registry.*")
    return text


def _position(request: web.Request, parameter: str) -> int | None:
    text = request.query.get(parameter, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise InvalidFieldError(parameter, f"{shown(text)} is not a position of the stream")
    return int(text)


def _after(request: web.Request) -> int | None:
    """Returns where a reader goes on that follows the events; what it was told last counts first."""
    told_last = request.headers.get(following.LAST_EVENT_ID, "").strip()
    if told_last.isascii() and told_last.isdigit() and len(told_last) <= _DIGITS_MAX:
        return int(told_last)
    return _position(request, "after")


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "").strip()
    if not text:
        return LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and 1 <= int(text) <= LIMIT_MAX):
        raise InvalidFieldError("limit", f"{shown(text)} is not 1 to {LIMIT_MAX}")
    return int(text)


def _moment(name: str, meaning: str) -> Parameter:
    said = "a position of the stream, a time (RFC 3339), now, or how long ago: 15m, 1h, 7d."
    return Parameter(name=name, type=AskedMoment, meaning=f"{meaning}: {said}")


AT: Final = _moment("at", "Show the registry as it was then")
REFUSALS: Final[dict[int, Any]] = dict.fromkeys((404, 410, 422, 503), Problem)

ROUTES: Final = (
    Route(
        method="GET",
        path="/api/events",
        handle=events,
        summary="List the events of the stream, each verified; as they come, if `Accept` asks for a stream.",
        answers={200: EventList} | REFUSALS,
        parameters=(
            _moment("since", "Only events from then on"),
            _moment("until", "Only events up to then"),
            Parameter(name="after", type=AskedPosition, meaning="Only events behind this position."),
            Parameter(name="before", type=AskedPosition, meaning="Only events ahead of this position."),
            Parameter(name="subject", type=str, meaning="Only these subjects, such as `service.registry.*`."),
            Parameter(name="type", type=str, meaning="Only this type, such as `registered`."),
            Parameter(name="node", type=AskedLabelIfAny, meaning="Only events about this node."),
            Parameter(name="service", type=AskedLabelIfAny, meaning="Only events about this service."),
            Parameter(name="id", type=AskedId, meaning="Only events about this instance."),
            Parameter(
                name="limit", type=Annotated[int, Meta(ge=1, le=LIMIT_MAX)], meaning="How many at most: 100."
            ),
            Parameter(
                name="order",
                type=Annotated[str, Meta(pattern="^(asc|desc)?$")],
                meaning="`asc` or `desc`; the newest come first unless `since` or `after` is given.",
            ),
            Parameter(
                name=following.LAST_EVENT_ID,
                where="header",
                type=str,
                meaning="For a stream: go on behind this position; what is none counts as absent.",
            ),
        ),
    ),
    Route(
        method="GET",
        path="/api/diff",
        handle=diff,
        summary="Show what differs in the registry between two moments.",
        answers={200: Differences} | REFUSALS,
        parameters=(
            _moment("from", "Compare what was there then"),
            _moment("to", "with what was there then, or is there now if this is left out"),
        ),
    ),
)
