"""What the search nodes of `rag.py` search: a few texts, and three small, honest ways to find one.

Each returns the names of the texts that fit a question, the best first.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Final

TEXTS: Final = {
    "battery": "The rover of Nadia runs for six hours on one battery. Cold nights halve that.",
    "camera": "Nadia mounted the camera of the rover too low: it sees the grass, and little else.",
    "gearbox": "The gearbox came from Okoro. It is loud, and has outlived two motors.",
    "greenhouse": "Okoro waters the greenhouse at dawn. The pump is driven by the solar roof.",
    "motor": "Two motors burned out on the hill. Since then the rover climbs slowly.",
    "pump": "When the pump is dry it whistles. Priya wrote down how it is filled again.",
    "radio": "The radio of Priya reaches the hill, and no further, once the rain begins.",
    "roof": "The solar roof gives four kilowatts at noon, and charges every battery of the house.",
}
"""Texts by their names."""

_WORD: Final = re.compile(r"[A-Za-z]+")
_FOUND_MAX: Final = 3


def by_likeness(question: str) -> list[str]:
    """Finds texts whose pieces of three letters resemble the question's: inflections do not matter."""
    asked = _pieces(question)
    return _best((name, _cosine(asked, _pieces(text))) for name, text in TEXTS.items())


def by_relations(question: str) -> list[str]:
    """Finds texts about what the question names, or about what stands beside that in another text."""
    asked = {word.lower() for word in _WORD.findall(question)}
    beside: dict[str, set[str]] = {}
    for text in TEXTS.values():
        for one, other in combinations(sorted(_things(text)), 2):
            beside.setdefault(one, set()).add(other)
            beside.setdefault(other, set()).add(one)
    near = {other for one in asked for other in beside.get(one, ())}
    return _best(
        (name, 2.0 * len(things & asked) + len(things & near))
        for name, text in TEXTS.items()
        for things in (_things(text),)
    )


def by_words(question: str) -> list[str]:
    """Finds texts that hold the question's words; a rare word counts for more."""
    words = {name: Counter(_WORD.findall(text.lower())) for name, text in TEXTS.items()}
    holding = Counter(word for counted in words.values() for word in counted)
    asked = set(_WORD.findall(question.lower()))
    return _best(
        (
            name,
            sum(
                count * math.log(len(TEXTS) / holding[word])
                for word, count in counted.items()
                if word in asked
            ),
        )
        for name, counted in words.items()
    )


WAYS: Final[dict[str, Callable[[str], list[str]]]] = {
    "vector": by_likeness,
    "graph": by_relations,
    "full-text": by_words,
}
"""The ways to search, by the capability under which a node offers one."""


def _best(scores: Iterable[tuple[str, float]]) -> list[str]:
    found = [(score, name) for name, score in scores if score > 0]
    return [name for _, name in sorted(found, key=lambda one: (-one[0], one[1]))[:_FOUND_MAX]]


def _pieces(text: str) -> Counter[str]:
    plain = " ".join(_WORD.findall(text.lower()))
    return Counter(plain[start : start + 3] for start in range(len(plain) - 2))


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    both = sum(count * other[piece] for piece, count in one.items())
    lengths = math.hypot(*one.values()) * math.hypot(*other.values())
    return both / lengths if lengths else 0.0


def _things(text: str) -> set[str]:
    """Returns what a text is about: its longer words."""
    return {word.lower() for word in _WORD.findall(text) if len(word) > 3}
