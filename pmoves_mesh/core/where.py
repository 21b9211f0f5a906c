"""Where: conditions on what an instance is, and on what its node has.

A condition is a path and what must hold of the value there: `resources.gpu.memory_gb` and `{"gte": 8}`.
Every condition must hold. A path that leads to a list, such as `capabilities`, holds if one item of it
does; all conditions on `resources.gpu` must hold of one and the same GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, ge, gt, le, lt
from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.core.names import shown
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry
from pmoves_mesh.errors import InvalidFieldError

CONDITIONS_MAX: Final = 32
PATH_LENGTH_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 1024
CHOICES_MAX: Final = 100
ITEMS_MAX: Final = 256
"""How many items of a list are looked at, whoever made it so long."""

PATH: Final = r"^[A-Za-z0-9_:/+@-][A-Za-z0-9._:/+@ -]{0,254}$"
OPERATORS: Final = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "exists")
FIELDS: Final = (
    *("name", "id", "node", "host", "port", "mode", "capabilities", "health_url", "health_status"),
    *("deregister_after", "registered_at", "verified", "signer", "node_capabilities"),
)
"""Fields that are a value, or a list of values, by themselves."""

TREES: Final = ("ports", "metadata", "resources")
"""Fields that are objects: a path goes on below them."""

Scalar = str | int | float | bool

_ORDERED: Final[dict[str, Callable[[Any, Any], bool]]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
_PATH_RE: Final = re.compile(PATH)
_PARTS_MAX: Final = 16
_GPU: Final = ("resources", "gpu")
_OF_ENTRY: Final = frozenset({"verified", "signer"})
_RULE: Final = "a text, a number, true, false, or an object of operators"
_SCALAR_RULE: Final = "a text, a number, true or false"


class Test(Struct, frozen=True):
    """What must hold of a value: an operator, and what it is compared with."""

    operator: str
    value: Any

    def holds(self, found: object) -> bool:
        """Returns whether it holds of a value that is there."""
        match self.operator:
            case "exists":
                return self.value is True
            case "in":
                return any(_same(found, one) for one in self.value)
            case "eq":
                return _same(found, self.value)
            case "ne":
                return not _same(found, self.value)
            case ordered:
                return _kind(found) == _kind(self.value) and _ORDERED[ordered](found, self.value)

    @property
    def holds_of_nothing(self) -> bool:
        """Whether it holds where there is no value."""
        return self.operator == "ne" or (self.operator == "exists" and self.value is False)


class Term(Struct, frozen=True):
    """A condition: where to look, and all that must hold there of one value."""

    path: tuple[str, ...]
    tests: tuple[Test, ...]

    def holds(self, values: Sequence[object]) -> bool:
        """Returns whether it holds of the values that a path led to."""
        if not values:
            return all(test.holds_of_nothing for test in self.tests)
        # None of the values may be what must not be; the rest must hold of one of them.
        if any(test.operator == "ne" and not all(map(test.holds, values)) for test in self.tests):
            return False
        others = [test for test in self.tests if test.operator != "ne"]
        return any(all(test.holds(value) for test in others) for value in values)


class Where(Struct, frozen=True, kw_only=True):
    """Conditions, all of which must hold.

    Attributes:
        instance: those on the instance itself.
        node: those on the resources and the capabilities of its node.
        gpu: those on one of its node's GPUs.
    """

    instance: tuple[Term, ...] = ()
    node: tuple[Term, ...] = ()
    gpu: tuple[Term, ...] = ()

    @property
    def asks_for_gpu(self) -> bool:
        """Whether it is about GPUs."""
        return bool(self.gpu) or any(term.path[:2] == _GPU for term in self.node)

    def holds_of_node(self, node: NodeEntry) -> bool:
        """Returns whether what is asked of the node holds."""
        announced = node.announced
        resources = announced.resources if announced else {}
        capabilities = announced.capabilities if announced else ()
        for term in self.node:
            root: object = resources if term.path[0] == "resources" else capabilities
            if not term.holds(_values(root, term.path[1:])):
                return False
        if not self.gpu:
            return True
        found = resources.get("gpu")
        listed = found[:ITEMS_MAX] if isinstance(found, list | tuple) else ()
        gpus = [one for one in listed if isinstance(one, dict)]
        return any(all(term.holds(_values(gpu, term.path[2:])) for term in self.gpu) for gpu in gpus or ({},))

    def holds_of_instance(self, entry: InstanceEntry) -> bool:
        """Returns whether what is asked of the instance itself holds."""
        for term in self.instance:
            field, *rest = term.path
            root = attrgetter(field)(entry if field in _OF_ENTRY else entry.record)
            if not term.holds(_values(root, tuple(rest))):
                return False
        return True


ANYWHERE: Final = Where()


def parse_where(conditions: Mapping[str, Any], field: str = "where") -> Where:
    """Returns what an object of paths and conditions asks for.

    Args:
        conditions: by path; a bare value means `eq`.
        field: what the object is called, for errors.

    Raises:
        InvalidFieldError: if there are more than 32, or a path leads nowhere, or a condition cannot be one.
    """
    if len(conditions) > CONDITIONS_MAX:
        raise InvalidFieldError(field, f"{len(conditions)} conditions, at most {CONDITIONS_MAX}")
    terms = [
        Term(_path(path, field), _tests(condition, f"{field}.{path[:80]}"))
        for path, condition in conditions.items()
    ]
    gpu = tuple(term for term in terms if term.path[:2] == _GPU and len(term.path) > 2)
    node = tuple(
        term for term in terms if term.path[0] in {"resources", "node_capabilities"} and term not in gpu
    )
    return Where(
        instance=tuple(term for term in terms if term not in gpu and term not in node), node=node, gpu=gpu
    )


def _path(path: str, field: str) -> tuple[str, ...]:
    parts = tuple(path.split("."))
    first, rest = parts[0], parts[1:]
    if not _PATH_RE.match(path) or len(parts) > _PARTS_MAX or "" in parts:
        raise InvalidFieldError(field, f"{shown(path)} is not a path such as resources.gpu.memory_gb")
    if first not in FIELDS and first not in TREES:
        allowed = ", ".join((*FIELDS, *(f"{tree}.*" for tree in TREES)))
        raise InvalidFieldError(field, f"{shown(path)} does not begin with one of {allowed}")
    if first in FIELDS and rest:
        raise InvalidFieldError(field, f"{shown(path)} goes on below {first}, which is no object")
    return parts


def _tests(condition: object, field: str) -> tuple[Test, ...]:
    if not isinstance(condition, dict):
        return (Test("eq", _scalar(condition, field, _RULE)),)
    if not condition:
        raise InvalidFieldError(field, f"no operator; one of {', '.join(OPERATORS)}")
    return tuple(_test(operator, value, field) for operator, value in condition.items())


def _test(operator: str, value: object, field: str) -> Test:
    place = f"{field}.{operator[:20]}"
    match operator:
        case "exists":
            if not isinstance(value, bool):
                raise InvalidFieldError(place, f"{shown(value)} is neither true nor false")
            return Test(operator, value)
        case "in":
            if not isinstance(value, list) or not 1 <= len(value) <= CHOICES_MAX:
                raise InvalidFieldError(place, f"{shown(value)} is not a list of 1 to {CHOICES_MAX} values")
            return Test(operator, tuple(_scalar(one, place, _SCALAR_RULE) for one in value))
        case "eq" | "ne":
            return Test(operator, _scalar(value, place, _SCALAR_RULE))
        case "gt" | "gte" | "lt" | "lte":
            if isinstance(value, bool):
                raise InvalidFieldError(place, f"{value} is not a number or a text")
            return Test(operator, _scalar(value, place, "a number or a text"))
        case _:
            raise InvalidFieldError(field, f"{shown(operator)} is not one of {', '.join(OPERATORS)}")


def _scalar(value: object, field: str, rule: str) -> Scalar:
    if not isinstance(value, str | int | float):
        raise InvalidFieldError(field, f"{shown(value)} is not {rule}")
    if isinstance(value, str) and len(value) > TEXT_LENGTH_MAX:
        raise InvalidFieldError(field, f"{len(value)} characters, at most {TEXT_LENGTH_MAX}")
    return value


def _values(root: object, path: tuple[str, ...]) -> Sequence[object]:
    """Returns the values that a path leads to; a list gives its items, and nothing gives none.

    A key that has a dot in it, as metadata may, is found by the rest of the path as it stands.
    """
    if isinstance(root, list | tuple):
        return [found for item in root[:ITEMS_MAX] for found in _values(item, path)]
    if not path:
        return () if root is None else (root,)
    if not isinstance(root, dict):
        return ()
    whole = ".".join(path)
    if whole in root:
        return _values(root[whole], ())
    return _values(root.get(path[0]), path[1:])


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _same(found: object, wanted: object) -> bool:
    """Returns whether two values are equal; true is not 1, as in JSON."""
    return _kind(found) == _kind(wanted) and found == wanted
