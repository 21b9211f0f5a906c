"""Selectors: the fields of an answer's type, and what a filter may ask of each.

Source: Consul's filtering: which operations a selector of which type supports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct
from msgspec.inspect import (
    AnyType,
    BoolType,
    DictType,
    IntType,
    LiteralType,
    StrType,
    StructType,
    Type,
    VarTupleType,
    type_info,
)

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.pattern import Pattern

Test = Callable[[Any], bool]
"""Says of an answer's item whether it fits."""

_Step = Callable[[Any], Iterator[Any]]
"""Yields what a value holds at one part of a path: many values below a list."""

_MISSING: Final = object()
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def selected(
    shape: type[Struct], path: tuple[str, ...], operation: str, value: str, *, negative: bool
) -> Test:
    """Returns a test of what stands at a path.

    Args:
        shape: the type of the items.
        path: the names of fields, and keys of objects.
        operation: equal, within, contains, matches or empty.
        value: what it is compared with.
        negative: whether the opposite is asked for.

    Raises:
        InvalidFieldError: if these items have no such field, or it cannot be compared like that.
    """
    steps, kind = _resolved(type_info(shape), path)
    holds = _comparison(kind, operation, value, ".".join(path))

    def test(item: Any) -> bool:
        return any(
            (negative if operation != "empty" else not negative)
            if found is _MISSING
            else holds(found) != negative
            for found in _found(item, steps)
        )

    return test


def _found(value: Any, steps: list[_Step]) -> Iterator[Any]:
    if not steps or value is _MISSING:
        yield value
        return
    for one in steps[0](value):
        yield from _found(one, steps[1:])


def _resolved(kind: Type, path: tuple[str, ...]) -> tuple[list[_Step], Type]:
    """Returns how to get from an item to what stands at a path, and of which type that is."""
    steps: list[_Step] = []
    for name in path:
        if isinstance(kind, VarTupleType) and isinstance(kind.item_type, StructType):
            steps.append(iter)
            kind = kind.item_type
        match kind:
            case StructType():
                field = next((one for one in kind.fields if one.encode_name == name), None)
                if field is None:
                    raise _not_there(path)
                steps.append(_field(field.name))
                kind = field.type
            case DictType():
                steps.append(_key(name))
                kind = kind.value_type
            case _:
                raise _not_there(path)
    return steps, kind


def _not_there(path: tuple[str, ...]) -> InvalidFieldError:
    return InvalidFieldError("filter", f"there is no {shown('.'.join(path))} in this answer")


def _field(name: str) -> _Step:
    return lambda value: iter((getattr(value, name),))


def _key(name: str) -> _Step:
    return lambda value: iter((value.get(name, _MISSING),))


def _comparison(kind: Type, operation: str, value: str, path: str) -> Test:
    holds = None
    match kind, operation:
        case ((StrType() | LiteralType() | AnyType()), _) if operation != "empty":
            holds = _of_text(operation, value)
        case IntType(), "equal":
            number = _number(value)
            holds = lambda found: found == number  # noqa: E731 - one of several
        case BoolType(), "equal":
            truth = _truth(value)
            holds = lambda found: found is truth  # noqa: E731 - as above
        case ((VarTupleType(item_type=StrType()) | DictType()), ("within" | "contains")):
            holds = lambda found: value in found  # noqa: E731 - as above
        case ((VarTupleType() | DictType() | StrType()), "empty"):
            holds = lambda found: len(found) == 0  # noqa: E731 - as above
        case _:
            pass
    if holds is None:
        raise InvalidFieldError("filter", f"{shown(path)} cannot be compared like that")
    return holds


def _of_text(operation: str, value: str) -> Test:
    if operation == "equal":
        return lambda found: str(found) == value
    if operation == "matches":
        pattern = Pattern(value)
        return lambda found: pattern.found_in(str(found))
    return lambda found: value in str(found)


def _truth(value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise InvalidFieldError("filter", f"{shown(value)} is neither true nor false")
    return value in _TRUE


def _number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidFieldError("filter", f"{shown(value)} is no whole number") from None
