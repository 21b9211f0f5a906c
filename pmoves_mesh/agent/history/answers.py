"""Answering: what each question about the past needs, and its answer as JSON."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from pmoves_mesh.agent.history.keeping import Keeping
from pmoves_mesh.agent.history.replay import Replayed, Replayer
from pmoves_mesh.agent.history.showing import Showing
from pmoves_mesh.core import history, query
from pmoves_mesh.core.history import (
    EventsWanted,
    KeepUpTo,
    NodesAt,
    ServicesAt,
    Spot,
    Told,
    WhatChanged,
    spot,
)
from pmoves_mesh.core.moments import Kept, Moment
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.log.past import NatsPast

_encode: Final = msgspec.json.Encoder().encode


class Answers:
    """Answers one question after another; several may be under way at once."""

    def __init__(self, past: NatsPast, replayer: Replayer, showing: Showing, keeping: Keeping) -> None:
        self._past = past
        self._replayer = replayer
        self._showing = showing
        self._keeping = keeping

    async def answer(self, question: ServicesAt | NodesAt | WhatChanged | EventsWanted | KeepUpTo) -> Told:
        """Returns the answer to a question.

        Raises:
            MeshError: one of its subclasses, if there is none.
        """
        match question:
            case ServicesAt():
                return await self._services(question)
            case NodesAt():
                return await self._nodes(question)
            case WhatChanged():
                return await self._differences(question)
            case EventsWanted():
                found = await self._showing.listed(question)
                return _told(found, found["last"].position)
            case KeepUpTo():
                made = await self._keeping.keep(question.position)
                return _told({"made": made}, question.position)

    async def _services(self, question: ServicesAt) -> Told:
        held = await self._replayer.at(question.at, await self._past.kept())
        entries = query.find(held.registry, question.wanted)
        views = [query.instance_view(held.registry, entry) for entry in entries]
        return _told({"count": len(views), "services": views, "at": held.view()}, held.position)

    async def _nodes(self, question: NodesAt) -> Told:
        held = await self._replayer.at(question.at, await self._past.kept())
        views = [query.node_view(node) for _, node in sorted(held.registry.nodes.items())]
        return _told({"count": len(views), "nodes": views, "at": held.view()}, held.position)

    async def _differences(self, question: WhatChanged) -> Told:
        kept = await self._past.kept()
        begin = await self._replayer.at(question.begin, kept)
        before, start = history.shown(begin.registry), _spot(begin)
        await asyncio.sleep(0)
        end = await self._end(question.end, kept, begin)
        after = history.shown(end.registry)
        found = {"from": start, "to": _spot(end), **history.changes(before, after)}
        return _told(found, end.position)

    async def _end(self, moment: Moment, kept: Kept, begin: Replayed) -> Replayed:
        position, time_ms = begin.position, begin.time_ms
        if not moment.includes(position, time_ms):
            raise InvalidFieldError("to", "lies before what `from` names")
        return await self._replayer.at(moment, kept, onward=begin)


def _spot(held: Replayed) -> Spot:
    return spot(held.position, held.time_ms)


def _told(found: dict[str, Any], position: int) -> Told:
    return Told(body=_encode(found), position=position)
