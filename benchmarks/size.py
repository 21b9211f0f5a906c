"""How much is measured: all of it for the figures, or next to nothing to see that each benchmark runs."""

from __future__ import annotations

from msgspec import Struct


class Size(Struct, frozen=True, kw_only=True):
    """How large and how long the measurements are.

    Attributes:
        name: `full` or `short`.
        rounds: how often each thing is measured, in turn with what it is compared with.
        seconds: how long a server is asked in each round.
        changes_per_s: of the registry, while it is asked.
        services: for looking up by name.
        instances: for discovering by capabilities; 20 of them match.
        growth: numbers of instances, the smallest first.
        resolves: how often the SDK resolves in a round.
        registrations: one at a time.
        crowd: registrations by many clients.
        events: folded in a round.
        starts: of an agent and of the command line.
        watchers: of one agent.
        changes: that all watchers are told of.
        idle_s: how long what is at rest is watched.
        settle_s: how long it may first come to rest.
        checks: services whose health is probed every 10 s.
        agents: numbers of whole agents on one server.
        reaches: changes that all of those are told of.
    """

    name: str
    rounds: int
    seconds: float
    changes_per_s: tuple[int, ...]
    services: int
    instances: int
    growth: tuple[int, ...]
    resolves: int
    registrations: int
    crowd: int
    events: int
    starts: int
    watchers: int
    changes: int
    idle_s: float
    settle_s: float
    checks: int
    agents: tuple[int, ...]
    reaches: int


FULL = Size(
    name="full",
    rounds=5,
    seconds=2,
    changes_per_s=(10, 100),
    services=1_000,
    instances=10_000,
    growth=(1_000, 10_000, 100_000),
    resolves=500_000,
    registrations=500,
    crowd=5_000,
    events=2_000,
    starts=10,
    watchers=1_000,
    changes=50,
    idle_s=50,
    settle_s=15,
    checks=100,
    agents=(10, 100, 500),
    reaches=20,
)

SHORT = Size(
    name="short",
    rounds=2,
    seconds=1,
    changes_per_s=(100,),
    services=40,
    instances=40,
    growth=(40, 80),
    resolves=20_000,
    registrations=10,
    crowd=200,
    events=200,
    starts=1,
    watchers=20,
    changes=3,
    idle_s=1,
    settle_s=0.5,
    checks=5,
    agents=(2, 4),
    reaches=2,
)
