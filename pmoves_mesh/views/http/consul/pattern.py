"""Regular expressions whose cost grows with the text alone, as those of RE2 do: anybody may send one.

Python's own `re` tries one way after another, and some expressions have more ways than there is time
for. Here all ways are followed at once; `re` only says which characters a class such as `[a-f]` holds.

Source: R. Cox, "Regular Expression Matching Can Be Simple And Fast" (2007); K. Thompson (1968); the
syntax of RE2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from lark import Lark, LarkError, Token, Transformer

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError

PATTERN_LENGTH_MAX: Final = 256

_STATES_MAX: Final = 2000
_REPEATS_MAX: Final = 200
_STEPS_REMEMBERED_MAX: Final = 10_000
_BEGIN: Final = "begin"
_END: Final = "end"

_GRAMMAR: Final = r"""
?start: choice
choice: sequence ("|" sequence)*
sequence: repeated*
?repeated: item
    | item REPEAT -> repeat
?item: "(" choice ")"
    | "(?:" choice ")"
    | ANCHOR -> anchor
    | (CLASS | ESCAPE | ANY | PLAIN) -> character
REPEAT.2: /(?:[*+?]|\{[0-9]{1,4}(?:,[0-9]{0,4})?\})\??/
ANCHOR.2: /[\^$]|\\[Az]/
CLASS.2: /\[\^?\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*\]/
ESCAPE.2: /\\(?:x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]{1,6}\}|[^xAzbBpPQECkgG0-9])/
ANY.2: "."
PLAIN: /[^()|*+?\\\[\^$.]/
"""
_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_NAME: Final = re.compile(r"\[:([a-z]+):\]")
_DOUBLED: Final = re.compile(r"(?<!\\)[\[&|~]")
"""What Python may one day read otherwise within a class."""

_LONG_HEX: Final = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")

_Piece = Callable[["_Machine", int], int]
"""Adds states to a machine that lead to the given state, and returns where they begin."""


class _Machine:
    """States, from which characters lead on, or nothing at all does.

    Attributes:
        reads: for each state, the characters that lead on from it; None where nothing need be read.
        to: for each state, where it leads.
        anchors: for states that only hold at one end of the text, which end.
    """

    def __init__(self) -> None:
        self.reads: list[re.Pattern[str] | None] = []
        self.to: list[tuple[int, ...]] = []
        self.anchors: dict[int, str] = {}

    def add(self, to: Iterable[int], reads: re.Pattern[str] | None = None) -> int:
        if len(self.to) >= _STATES_MAX:
            raise InvalidFieldError("filter", "a regular expression is too large")
        self.reads.append(reads)
        self.to.append(tuple(to))
        return len(self.to) - 1

    def reached(self, states: Iterable[int], place: str) -> frozenset[int]:
        """Returns the states that are reached from `states` without reading anything."""
        found, pending = set(), list(states)
        while pending:
            state = pending.pop()
            if state in found or self.anchors.get(state, place) not in place:
                continue
            found.add(state)
            if self.reads[state] is None:
                pending.extend(self.to[state])
        return frozenset(found)


class Pattern:
    """A compiled expression; it is looked for anywhere in a text.

    Raises:
        InvalidFieldError: if it is none, or too long or large.
    """

    def __init__(self, text: str) -> None:
        if len(text) > PATTERN_LENGTH_MAX:
            problem = f"a regular expression of {len(text)} characters, at most {PATTERN_LENGTH_MAX}"
            raise InvalidFieldError("filter", problem)
        flags = re.IGNORECASE if text.startswith("(?i)") else 0
        machine = _Machine()
        try:
            piece: _Piece = _Builder(flags).transform(_parser().parse(text.removeprefix("(?i)")))
            self._accepted: Final = machine.add(())
            self._first: Final = piece(machine, self._accepted)
        except (LarkError, re.error, RecursionError, ValueError, OverflowError) as error:
            cause = error.orig_exc if hasattr(error, "orig_exc") else error
            if isinstance(cause, InvalidFieldError):
                raise cause from None
            raise InvalidFieldError(
                "filter", f"{shown(text)} cannot be used as a regular expression"
            ) from None
        self._machine: Final = machine
        self._steps: Final[dict[tuple[frozenset[int], str], frozenset[int]]] = {}
        self._begin: Final = machine.reached((self._first,), _BEGIN)
        self._anew: Final = machine.reached((self._first,), "")

    def found_in(self, text: str) -> bool:
        """Returns whether the expression matches a part of a text."""
        states = self._begin
        for character in text:
            if self._accepted in states:
                return True
            states = self._step(states, character)
        return self._accepted in states or self._ends(states, empty=not text)

    def _step(self, states: frozenset[int], character: str) -> frozenset[int]:
        step = (states, character)
        known = self._steps.get(step)
        if known is None:
            machine = self._machine
            ahead: set[int] = set()
            for state in states:
                reads = machine.reads[state]
                if reads is not None and reads.match(character):
                    ahead.update(machine.to[state])
            # A match may begin at every place, so the first state is always among them.
            known = machine.reached(ahead, "") | self._anew | _waiting(machine, ahead)
            if len(self._steps) >= _STEPS_REMEMBERED_MAX:
                self._steps.clear()
            self._steps[step] = known
        return known

    def _ends(self, states: frozenset[int], *, empty: bool) -> bool:
        place = _BEGIN + _END if empty else _END
        return self._accepted in self._machine.reached((*states, self._first), place)


def _waiting(machine: _Machine, states: Iterable[int]) -> frozenset[int]:
    """Returns the anchors of the end that are reached: they hold if nothing more is to be read."""
    found, pending = set(), list(states)
    while pending:
        state = pending.pop()
        if state in found or machine.anchors.get(state) == _BEGIN:
            continue
        found.add(state)
        if machine.reads[state] is None and state not in machine.anchors:
            pending.extend(machine.to[state])
    return frozenset(state for state in found if state in machine.anchors)


class _Builder(Transformer[Token, Any]):
    """Turns a parsed expression into pieces of a machine."""

    def __init__(self, flags: int) -> None:
        super().__init__()
        self._flags = flags

    def choice(self, pieces: list[_Piece]) -> _Piece:
        if len(pieces) == 1:
            return pieces[0]
        return lambda machine, to: machine.add([piece(machine, to) for piece in pieces])

    def sequence(self, pieces: list[_Piece]) -> _Piece:
        def build(machine: _Machine, to: int) -> int:
            for piece in reversed(pieces):
                to = piece(machine, to)
            return to

        return build

    def repeat(self, parts: list[Any]) -> _Piece:
        piece, text = parts[0], str(parts[1])
        text = text[:-1] if len(text) > 1 and text.endswith("?") else text
        least, _, most = {"*": "0,", "+": "1,", "?": "0,1"}.get(text, text.strip("{}")).partition(",")
        lower = int(least)
        upper = int(most) if most else (None if text.endswith((",}", "*", "+")) else lower)
        if max(lower, upper or 0) > _REPEATS_MAX or (upper is not None and upper < lower):
            raise InvalidFieldError("filter", f"a regular expression repeats {text}: up to {_REPEATS_MAX}")

        def build(machine: _Machine, to: int) -> int:
            if upper is None:
                loop = machine.add(())
                machine.to[loop] = (piece(machine, loop), to)
                to = loop
            for _ in range((upper or lower) - lower):
                to = machine.add((piece(machine, to), to))
            for _ in range(lower):
                to = piece(machine, to)
            return to

        return build

    def anchor(self, parts: list[Token]) -> _Piece:
        place = _BEGIN if str(parts[0]) in {"^", r"\A"} else _END

        def build(machine: _Machine, to: int) -> int:
            state = machine.add((to,))
            machine.anchors[state] = place
            return state

        return build

    def character(self, parts: list[Token]) -> _Piece:
        text = _POSIX_NAME.sub(lambda name: _POSIX[name[1]], str(parts[0]))
        text = _LONG_HEX.sub(lambda code: re.escape(chr(int(code[1], 16))), text)
        if text.startswith("["):
            text = text[0] + _DOUBLED.sub(r"\\\g<0>", text[1:-1]) + text[-1]
        elif len(text) == 1 and text != ".":
            text = re.escape(text)
        reads = re.compile(text, self._flags | re.ASCII)
        return lambda machine, to: machine.add((to,), reads)


@lru_cache(1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual")
