"""What answers a question: it asks one node of each kind at once, and goes on with those that answer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import aiohttp
from texts import WAYS

from pmoves_mesh import Mesh

_TIMEOUT: Final = aiohttp.ClientTimeout(total=3.0)
_FLATTENING: Final = 60
"""How little the first place counts for more than the next, when lists become one."""


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        texts: names of texts, the best first.
        asked: which node searched, by the kind of search; a kind that nobody could do is not there.
    """

    texts: list[str]
    asked: dict[str, str]


class Coordinator:
    """Asks whoever can search, wherever they are."""

    def __init__(self, mesh: Mesh, http: aiohttp.ClientSession) -> None:
        """Takes the mesh that it finds nodes in, and what it asks them with."""
        self._mesh = mesh
        self._http = http

    async def ask(self, question: str) -> Answer:
        """Asks all kinds of nodes at once, and makes one list of theirs.

        Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion", SIGIR 2009.
        """
        async with asyncio.TaskGroup() as group:
            tasks = {kind: group.create_task(self._search(kind, question)) for kind in WAYS}
        answers = {kind: task.result() for kind, task in tasks.items()}
        score = defaultdict[str, float](float)
        for answer in answers.values():
            for place, text in enumerate(answer[1] if answer else ()):
                score[text] += 1 / (_FLATTENING + place)
        return Answer(
            sorted(score, key=lambda text: (-score[text], text)),
            {kind: answer[0] for kind, answer in answers.items() if answer is not None},
        )

    async def _search(self, kind: str, question: str) -> tuple[str, list[str]] | None:
        """Asks one node of a kind after another until one answers, and returns its name and its list."""
        for one in await self._mesh.discover(kind):
            try:
                asked = self._http.get(one.url("/search"), params={"q": question}, timeout=_TIMEOUT)
                async with asked as answer:
                    answer.raise_for_status()
                    return one.node, (await answer.json())["found"]
            except (aiohttp.ClientError, TimeoutError):
                self._mesh.failed(one)
        return None
