"""What a view shows of each record, and in how wide a terminal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from pmoves_mesh.cli.events import shown_type
from pmoves_mesh.cli.queries import brief, with_address
from pmoves_mesh.cli.top.board import Board, Key, Record, event_key, node_key, service_key

ViewName = Literal["services", "nodes", "events"]


class Asked(NamedTuple):
    """What a value may depend on, beside its record: what else is known, and the time, unix milliseconds."""

    board: Board
    now_ms: int


class Column(NamedTuple):
    """A column of a view.

    Attributes:
        heading: its first line.
        value: what it shows of a record.
        width: in characters; 0 shares what is left.
        share: how many parts of what is left.
        needs: the width of a terminal from which on it is shown.
        order: what it sorts by, where that is not what it shows.
    """

    heading: str
    value: Callable[[Record, Asked], object]
    width: int = 0
    share: int = 0
    needs: int = 0
    order: Callable[[Record, Asked], object] | None = None


class View(NamedTuple):
    """One of the lists: its columns, what it lists, and how a record is known again."""

    columns: tuple[Column, ...]
    records: Callable[[Board], list[Record]]
    key: Callable[[Record], Key]
    is_newest_first: bool = False


def _field(name: str) -> Callable[[Record, Asked], object]:
    return lambda record, _: record.get(name)


def _address(record: Record, _: Asked) -> object:
    return with_address(record)["address"]


def _state(record: Record, _: Asked) -> str:
    """Returns how an instance is: of its node and its maintenance only what is unusual."""
    if (node := record.get("node_status", "alive")) != "alive":
        return f"node {node}"
    return "maintenance" if record.get("maintenance") else str(record.get("health_status", ""))


_GRAVITY: Final = {"unhealthy": 0, "unknown": 2, "maintenance": 3, "healthy": 4}


def _gravity(record: Record, asked: Asked) -> int:
    return _GRAVITY.get(_state(record, asked), 1)


def _registered_ms(record: Record, _: Asked) -> int | None:
    try:
        return int(datetime.fromisoformat(str(record.get("registered_at"))).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _age(record: Record, asked: Asked) -> str:
    registered_ms = _registered_ms(record, asked)
    return "" if registered_ms is None else shown_age((asked.now_ms - registered_ms) / 1000)


def _born(record: Record, asked: Asked) -> int | None:
    """Sorts by age, the youngest first."""
    registered_ms = _registered_ms(record, asked)
    return None if registered_ms is None else -registered_ms


def shown_age(seconds: float) -> str:
    """Returns how long ago something was, in its largest unit alone."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _load(part: str) -> Callable[[Record, Asked], object]:
    def value(record: Record, asked: Asked) -> object:
        share = _share(record, asked, part)
        return "" if share is None else f"{share:.0%}"

    return value


def _busy(part: str) -> Callable[[Record, Asked], object]:
    """Sorts by load, the busiest first."""

    def order(record: Record, asked: Asked) -> object:
        share = _share(record, asked, part)
        return None if share is None else -share

    return order


def _share(record: Record, asked: Asked, part: str) -> float | None:
    load = asked.board.loads.get(str(record.get("name")))
    value: Any = None if load is None or load.get("stale") else load.get(part)
    return value if isinstance(value, int | float) else None


def _resources(record: Record, _: Asked) -> object:
    return brief(record.get("resources"))


def _when(record: Record, _: Asked) -> str:
    try:
        return f"{datetime.fromisoformat(str(record.get('time'))).astimezone():%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return ""


def _what(record: Record, _: Asked) -> str:
    return shown_type(record)


def _whose(record: Record, _: Asked) -> str:
    return "/".join(str(record[field]) for field in ("service", "id") if record.get(field))


def _proof(record: Record, _: Asked) -> object:
    return record.get("refused") or ("yes" if record.get("verified") else "no")


VIEWS: Final[dict[ViewName, View]] = {
    "services": View(
        (
            Column("SERVICE", _field("name"), share=3),
            Column("ID", _field("id"), share=2, needs=60),
            Column("NODE", _field("node"), share=2),
            Column("ADDRESS", _address, share=4, needs=70),
            Column("STATE", _state, width=11, order=_gravity),
            Column("MODE", _field("mode"), width=10, needs=120),
            Column("CAPABILITIES", _field("capabilities"), share=3, needs=100),
            Column("AGE", _age, width=4, needs=40, order=_born),
        ),
        lambda board: list(board.services.values()),
        service_key,
    ),
    "nodes": View(
        (
            Column("NODE", _field("name"), share=3),
            Column("STATUS", _field("status"), width=6),
            Column("ADDRESS", _address, share=4, needs=60),
            Column("MODE", _field("mode"), width=10, needs=110),
            Column("CPU", _load("cpu"), width=4, needs=45, order=_busy("cpu")),
            Column("MEM", _load("memory"), width=4, needs=45, order=_busy("memory")),
            Column("GPU", _load("gpu"), width=4, needs=45, order=_busy("gpu")),
            Column("INST", _field("instances"), width=5, needs=40),
            Column("RESOURCES", _resources, share=4, needs=75),
            Column("CAPABILITIES", _field("capabilities"), share=3, needs=130),
        ),
        lambda board: list(board.nodes.values()),
        node_key,
    ),
    "events": View(
        (
            Column("TIME", _when, width=14, order=_field("position")),
            Column("POSITION", _field("position"), width=9, needs=90),
            Column("EVENT", _what, share=3),
            Column("NODE", _field("node"), share=2),
            Column("SERVICE", _whose, share=4, needs=50),
            Column("VERIFIED", _proof, width=9, needs=65),
            Column("SIGNER", _field("signer"), share=5, needs=110),
        ),
        lambda board: list(board.events),
        event_key,
        is_newest_first=True,
    ),
}
