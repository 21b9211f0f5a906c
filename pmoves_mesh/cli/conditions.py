"""Conditions as people type them, `resources.gpu.memory_gb>=8`, turned into the agent's `where`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import click

_OPERATORS: Final = {
    ">=": "gte",
    "<=": "lte",
    "!=": "ne",
    "==": "eq",
    "=": "eq",
    ">": "gt",
    "<": "lt",
}
_PATH: Final = r"[A-Za-z0-9._:/+@-]+"
_COMPARISON_RE: Final = re.compile(rf"({_PATH})\s*({'|'.join(_OPERATORS)})\s*([^<>=!\s].*)")
_CHOICE_RE: Final = re.compile(rf"({_PATH})\s+in\s+(\S.*)")
_PRESENCE_RE: Final = re.compile(rf"(!?)\s*({_PATH})")

RULE: Final = "PATH=VALUE, also with != > >= < <=; PATH in A,B; PATH alone if it is there, !PATH if not"


def parse_conditions(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns conditions as the body of `POST /api/discover` has them; those on one path are put together.

    A value is a number, true or false if it reads like one, and a text otherwise, or between quotes.

    Raises:
        click.BadParameter: if one of them is no condition, or says the same twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, operator, value = _parse(text)
        operators = found.setdefault(path, {})
        if operator in operators:
            raise click.BadParameter(f"{text!r} says a second time what {path} is compared with")
        operators[operator] = value
    return found


def _parse(text: str) -> tuple[str, str, Any]:
    if match := _COMPARISON_RE.fullmatch(text.strip()):
        return match[1], _OPERATORS[match[2]], _value(match[3])
    if match := _CHOICE_RE.fullmatch(text.strip()):
        return match[1], "in", [_value(item.strip()) for item in match[2].split(",")]
    if match := _PRESENCE_RE.fullmatch(text.strip()):
        return match[2], "exists", not match[1]
    raise click.BadParameter(f"{text!r} is not {RULE}")


def _value(text: str) -> str | float | bool:
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text
