"""The way in to the language of `filter`: its parser is imported by the first who asks with one.

Few ever do, and every agent would keep the parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pmoves_mesh.errors import InvalidFieldError

if TYPE_CHECKING:
    from pmoves_mesh.views.http.consul.selectors import Test

EXPRESSION_LENGTH_MAX: Final = 2048


def compile_filter(text: str, shape: type[Struct]) -> Test:
    """Returns what tells whether an item of an answer fits.

    Args:
        text: the expression.
        shape: the type of the items.

    Raises:
        InvalidFieldError: if it is too long, no such expression, or speaks of what these items do not have.
    """
    if len(text) > EXPRESSION_LENGTH_MAX:
        raise InvalidFieldError("filter", f"{len(text)} characters, at most {EXPRESSION_LENGTH_MAX}")
    from pmoves_mesh.views.http.consul.expression import compile_expression  # noqa: PLC0415 - see above

    return compile_expression(text, shape)
