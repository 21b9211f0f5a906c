"""Folding: what a replica does with every event, on one core: verify, decode, apply."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import msgspec

from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, interleaved, rate, ratio
from benchmarks.mesh import Mesh
from pmoves_mesh.core import envelope, wire
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registry import Registry

TITLE = "fold: verify + decode + apply"
A_SECOND = Target(at_least=12_000)
VERIFY = "one P-256 verification"
JSON = "the same JSON without types"


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    mesh, count = Mesh(), stand.size.events
    events = [mesh.event(index, index + 1) for index in range(count)]
    sealed = [envelope.seal(event, mesh.identities[index % 50]) for index, event in enumerate(events)]
    payloads = [one.payload for one in sealed]
    signer = mesh.trust.admit(mesh.identities[0].certificate_der)
    signature = mesh.identities[0].sign(payloads[0])
    plain = msgspec.json.Decoder()

    def fold() -> None:
        registry = Registry()
        for position, one in enumerate(sealed, 1):
            apply(registry, mesh.unsealed(one), position=position, time_ms=mesh.now_ms)

    found = interleaved(
        stand.size.rounds,
        {
            "fold": lambda: rate(fold, count),
            VERIFY: lambda: rate(
                lambda: [signer.verifies(signature, payloads[0]) for _ in range(count)], count
            ),
            "decode": lambda: rate(lambda: [wire.decode(one.subject, one.payload) for one in sealed], count),
            JSON: lambda: rate(lambda: [plain.decode(payload) for payload in payloads], count),
            "seal": lambda: rate(
                lambda: [envelope.seal(event, mesh.identities[0]) for event in events], count
            ),
        },
    )
    verify, decoded = (median(found[name]) for name in (VERIFY, JSON))
    yield figure("verify, decode, apply", "/s", found["fold"], beside={VERIFY: verify}, target=A_SECOND)
    yield ratio(f"as many as {VERIFY}", found["fold"], found[VERIFY])
    yield figure("decode and check", "/s", found["decode"], beside={JSON: decoded})
    yield figure("seal (encode and sign)", "/s", found["seal"])
