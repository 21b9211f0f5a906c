"""How each of lookup, discover, apply and memory grows with the number of instances in the registry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.discover import discovered, question
from benchmarks.filled import MATCH, Filled, Stand
from benchmarks.measure import Figure, Rounds, Target, absent, figure, interleaved, rate, ratio
from benchmarks.mesh import Mesh
from benchmarks.peers import PREFIX
from benchmarks.processes import alone
from benchmarks.wrk import Asking, get, missing
from pmoves_mesh.core.projection import apply

TITLE = "growth"
FLAT = Target(at_least=0.8)
LINEAR = Target(at_least=0.8, at_most=1.25)

_ASKED = 1_000
_UPDATES = 1_000
_ROUNDS = 3
_MB = 1e6


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures, each for every size."""
    sizes = stand.size.growth
    if why := missing():
        yield absent("lookup and discover", "/s", why)
    else:
        yield from _over_http(stand)
    yield from _told("apply an update, in process", _applied(sizes, stand.size.rounds), FLAT)
    memory = {size: (mesh := stand.filled(size)).full_bytes - mesh.empty_bytes for size in sizes}
    for size, taken in memory.items():
        yield figure(_with("memory beyond an empty agent", size), "MB", [taken / _MB], sizes=("memory", size))
    # The smallest is so small that pages, and not instances, are what counts there.
    each = [taken / size for size, taken in memory.items()][-2:]
    yield figure(
        _with("memory for each, against ten times fewer", sizes[-1]),
        "times",
        [each[1] / each[0]],
        target=LINEAR,
    )


def _over_http(stand: Stand) -> Iterator[Figure]:
    meshes = [stand.filled(size) for size in stand.size.growth]
    with alone([mesh.reader.pid for mesh in meshes]):
        for what, questions, target in (
            ("lookup, the same thousand names", _same_names, FLAT),
            ("lookup, all names in turn", _all_names, None),
            ("discover, the same fifty questions", _questions, None),
        ):
            asked = {one.instances: Asking(stand.folder(), one.reader.port, questions(one)) for one in meshes}
            work: dict[str, Callable[[], float]] = {
                f"{size}": partial(one.rate, stand.size.seconds) for size, one in asked.items()
            }
            found = interleaved(min(_ROUNDS, stand.size.rounds), work)
            yield from _told(what, {size: found[f"{size}"] for size in asked}, target)


def _told(what: str, found: dict[int, Rounds], target: Target | None) -> Iterator[Figure]:
    for size, rounds in found.items():
        yield figure(_with(what, size), "/s", rounds, sizes=(what, size))
    smallest, largest = min(found), max(found)
    against = f"{what}: {largest:,} against {smallest:,}"
    yield ratio(against, found[largest], found[smallest], target)


def _with(what: str, size: int) -> str:
    return f"{what}, {size:,} instances"


def _same_names(mesh: Filled) -> list[bytes]:
    step = max(1, mesh.instances // _ASKED)
    return [get(f"{PREFIX}service-{number}") for number in range(0, mesh.instances, step)][:_ASKED]


def _all_names(mesh: Filled) -> list[bytes]:
    return [get(f"{PREFIX}service-{number}") for number in range(mesh.instances)]


def _questions(mesh: Filled) -> list[bytes]:
    discovered(mesh)
    return [question(group, MATCH) for group in range(min(mesh.groups, _ASKED // MATCH))]


def _applied(sizes: tuple[int, ...], rounds: int) -> dict[int, Rounds]:
    """Returns how many updates a second each registry takes, in this process."""
    mesh = Mesh()
    registries = {size: mesh.registry(size) for size in sizes}
    fresh = itertools.count(max(sizes) + 1)

    def fold_in(size: int) -> float:
        count = min(_UPDATES, size)
        numbers = range(0, size, size // count)
        updates = [mesh.unsealed(mesh.sealed(number, next(fresh))) for number in numbers]

        def work() -> None:
            for verified in updates:
                apply(registries[size], verified, position=next(fresh), time_ms=mesh.now_ms)

        return rate(work, len(updates))

    found = interleaved(2 * rounds, {f"{size}": partial(fold_in, size) for size in sizes})
    return {size: found[f"{size}"] for size in sizes}
