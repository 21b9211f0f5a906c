"""The pure core: encoding, verifying, folding and looking up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from benchmarks.measure import Figure, compare
from benchmarks.mesh import Mesh
from pmoves_mesh.core import choice, envelope, query, snapshot, wire
from pmoves_mesh.core.choice import Choice
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registry import Registry

EVENTS = 2_000
SIZES = (1_000, 10_000, 100_000)
LOOKUPS = 5_000


def run(mesh: Mesh) -> Iterator[Figure]:
    """Yields the figures of the core."""
    yield from _wire(mesh)
    yield from _growth(mesh)


def _wire(mesh: Mesh) -> Iterator[Figure]:
    events = [mesh.event(index, index + 1) for index in range(EVENTS)]
    sealed = [envelope.seal(event, mesh.identities[index % 50]) for index, event in enumerate(events)]
    payloads = [one.payload for one in sealed]
    signer = mesh.trust.admit(mesh.identities[0].certificate_der)
    signature = mesh.identities[0].sign(payloads[0])
    plain = msgspec.json.Decoder()

    def decode_plain() -> None:
        for payload in payloads:
            plain.decode(payload)

    def verify_plain() -> None:
        for _ in range(EVENTS):
            signer.verifies(signature, payloads[0])

    yield compare(
        "decode and check an event",
        lambda: [wire.decode(one.subject, one.payload) for one in sealed],
        "the same JSON without types",
        decode_plain,
        EVENTS,
    )
    yield compare(
        "seal (encode and sign)",
        lambda: [envelope.seal(event, mesh.identities[0]) for event in events],
        "one P-256 verification",
        verify_plain,
        EVENTS,
    )

    def fold() -> None:
        registry = Registry()
        for position, one in enumerate(sealed, 1):
            apply(registry, mesh.unsealed(one), position=position, time_ms=mesh.now_ms)

    yield compare("fold (verify, decode, apply)", fold, "one P-256 verification", verify_plain, EVENTS)


def _growth(mesh: Mesh) -> Iterator[Figure]:
    registries = {size: mesh.registry(size) for size in SIZES}
    smallest = SIZES[0]
    fresh = itertools.count(SIZES[-1] + 1)

    def look_up(size: int) -> None:
        registry = registries[size]
        for index in range(LOOKUPS):
            query.resolve(registry, f"service-{index % (smallest // 20)}")

    def fold_in(size: int) -> None:
        registry = registries[size]
        for verified in updates:
            apply(registry, verified, position=next(fresh), time_ms=mesh.now_ms)

    def discover(size: int) -> None:
        for index in range(500):
            wanted = Choice(capabilities=(f"group-{index % 500}", "all"))
            found = choice.matching(
                registries[size], registries[size].with_capabilities(wanted.capabilities), wanted
            )
            choice.best_first(found, wanted, node="")

    for size in SIZES[1:]:
        baseline = f"with {smallest:,} instances"
        yield compare(
            f"look up by name, {size:,} instances",
            lambda size=size: look_up(size),
            baseline,
            lambda: look_up(smallest),
            LOOKUPS,
        )
        revision = next(fresh)
        updates = [mesh.unsealed(mesh.sealed(index, revision + index)) for index in range(EVENTS // 2)]
        yield compare(
            f"apply an update, {size:,} instances",
            lambda size=size: fold_in(size),
            baseline,
            lambda: fold_in(smallest),
            len(updates),
        )
    small = registries[10_000]
    yield compare(
        "discover by two capabilities, 20 of 10,000 match",
        lambda: discover(10_000),
        "with 1,000 instances, 2 match",
        lambda: discover(smallest),
        500,
    )
    blob = snapshot.dump(small, "bench")
    yield compare(
        "load a snapshot, instances",
        lambda: snapshot.load(blob, "bench"),
        "dump it",
        lambda: snapshot.dump(small, "bench"),
        10_000,
    )
