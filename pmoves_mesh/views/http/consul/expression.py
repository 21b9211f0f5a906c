"""The language of `filter`: `Service.Meta.env == "qa" and not "old" in Service.Tags`.

A selector names a field of the answer's type, so that one that no answer can have is an error, even
where there is nothing to look at. Below a list it stands for each item: one that fits is enough.

Source: Consul's filtering (go-bexpr); RFC 6901 for selectors written as `"/Service/Meta/env"`.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any, Final, NamedTuple

from lark import Lark, LarkError, Token, Transformer, UnexpectedToken
from msgspec import Struct

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.selectors import Test, selected

_OPERATORS: Final = {
    "==": "equal",
    "!=": "equal",
    "in": "within",
    "contains": "contains",
    "matches": "matches",
}

_GRAMMAR: Final = r"""
?start: either
?either: both ("or" both)*
?both: negated ("and" negated)*
?negated: "not" negated -> negate
    | "(" either ")"
    | match
?match: operand operator operand -> compare
    | operand "is" "empty" -> is_empty
    | operand "is" "not" "empty" -> is_not_empty
!operator: "==" | "!=" | "not"? ("in" | "contains" | "matches")
operand: path | QUOTED | RAW | NUMBER
path: NAME ("." (NAME | INDEX) | "[" (QUOTED | RAW) "]")*
NAME: /[a-zA-Z][a-zA-Z0-9_\/]*/
INDEX: /[0-9]+/
NUMBER: /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?/
QUOTED: /"(?:\\(?:[abfnrtv\\"]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})|[^"\\\n])*"/
RAW: /`[^`]*`/
%ignore /[ \t\r\n]+/
"""


class _Operand(NamedTuple):
    """One side of a comparison.

    Attributes:
        value: as a value.
        path: as a selector; None if it can be none.
    """

    value: str
    path: tuple[str, ...] | None


@lru_cache(256)
def compile_expression(text: str, shape: type[Struct]) -> Test:
    """Returns what tells whether an item of an answer fits.

    Args:
        text: the expression.
        shape: the type of the items.

    Raises:
        InvalidFieldError: if it is no such expression, or speaks of what these items do not have.
    """
    try:
        tree = _parser().parse(text)
        test: Test = _Compiler(shape).transform(tree)
    except LarkError as error:
        cause = getattr(error, "orig_exc", None)
        if isinstance(cause, InvalidFieldError):
            raise cause from None
        raise InvalidFieldError("filter", _explained(error, text)) from None
    except RecursionError:
        raise InvalidFieldError("filter", "nested too deep") from None
    return test


def _explained(error: LarkError, text: str) -> str:
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return "ends too early"
    place = getattr(error, "pos_in_stream", None)
    if isinstance(place, int) and 0 <= place < len(text):
        return f"cannot be read from {shown(text[place : place + 40])} on"
    return "ends too early"


@lru_cache(1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual")


class _Compiler(Transformer[Token, Any]):
    """Turns a parsed expression into a test of items of one type."""

    def __init__(self, shape: type[Struct]) -> None:
        super().__init__()
        self._shape = shape

    def either(self, tests: list[Test]) -> Test:
        return lambda item: any(test(item) for test in tests)

    def both(self, tests: list[Test]) -> Test:
        return lambda item: all(test(item) for test in tests)

    def negate(self, tests: list[Test]) -> Test:
        (test,) = tests
        return lambda item: not test(item)

    def compare(self, parts: list[Any]) -> Test:
        left, operator, right = parts
        negative, name = operator
        selector, value = (right, left) if name == "within" else (left, right)
        return selected(self._shape, _path(selector), name, value.value, negative=negative)

    def is_empty(self, operands: list[_Operand]) -> Test:
        return selected(self._shape, _path(operands[0]), "empty", "", negative=False)

    def is_not_empty(self, operands: list[_Operand]) -> Test:
        return selected(self._shape, _path(operands[0]), "empty", "", negative=True)

    def operator(self, words: list[Token]) -> tuple[bool, str]:
        """Returns whether it is the opposite of an operator, and of which."""
        word = str(words[-1])
        return len(words) > 1 or word == "!=", _OPERATORS[word]

    def path(self, tokens: list[Token]) -> _Operand:
        names = tuple(_text(token) for token in tokens)
        return _Operand(".".join(names), names)

    def operand(self, parts: list[Any]) -> _Operand:
        (part,) = parts
        return part if isinstance(part, _Operand) else _literal(part)


def _path(operand: _Operand) -> tuple[str, ...]:
    if operand.path is None:
        raise InvalidFieldError("filter", f"{shown(operand.value)} is no selector")
    return operand.path


def _literal(token: Token) -> _Operand:
    """Returns a quoted text or a number; a text that begins with a slash may be a selector too."""
    value = _text(token)
    if token.type != "QUOTED" or not value.startswith("/"):
        return _Operand(value, None)
    parts = value[1:].split("/")
    return _Operand(value, tuple(part.replace("~1", "/").replace("~0", "~") for part in parts))


def _text(token: Token) -> str:
    match token.type:
        case "RAW":
            return token[1:-1]
        case "QUOTED":
            return str(ast.literal_eval(token.replace("\r", "\\r").replace("\0", "\\0")))
        case _:
            return str(token)
