"""Of runs with one identity that stay alive exactly one remains, whatever happens on the way to the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from builders import NOW_MS, Authority
from hypothesis import given, note, settings
from hypothesis import strategies as st

from pmoves_mesh.agent.liveness.lease import LeaseKeeper, Tenant
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.errors import IdentityCloned, LogUnavailable, SequenceConflict
from pmoves_mesh.ports import BucketEntry
from pmoves_mesh.verifier import Verifier

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")
RUNS_MAX = 4
ROUNDS = 60

Action = tuple[str, int, str]
"""What happens, to which of those it may happen to, and what becomes of what a run sends."""


class Key:
    """The one key that all runs write, as a bucket holds it."""

    def __init__(self) -> None:
        self.entry: BucketEntry | None = None
        self.written: list[bytes] = []
        self._revision = 0

    def get(self) -> BucketEntry | None:
        return self.entry

    def put(self, value: bytes, expected: int | None) -> int:
        if expected is not None and expected != (self.entry.revision if self.entry else 0):
            raise SequenceConflict("alpha", expected)
        self._revision += 1
        self.entry = BucketEntry(key="alpha", value=value, revision=self._revision)
        self.written.append(value)
        return self._revision

    def run_out(self) -> None:
        self._revision += self.entry is not None
        self.entry = None

    def be_lost_with_the_server(self) -> None:
        """The bucket is made anew, and counts from the beginning."""
        self.entry, self._revision = None, 0


@dataclass
class Call:
    """What a run waits for: the answer of the bucket, or the end of a pause if there is nothing to do."""

    operation: Callable[[], Any] | None
    future: asyncio.Future[Any]


class Run:
    """One run of the agent; it is its own bucket and clock, so that nothing happens that is not asked for."""

    def __init__(self, key: Key, number: int) -> None:
        self.call: Call | None = None
        self.told: list[Lease] = []
        self._key = key
        verifier = Verifier(AUTHORITY.trust, self, self)
        tenant = Tenant(
            node="alpha", host=f"host-{number}", ttl_s=10, incarnation=lambda: number, identity=lambda: ALPHA
        )
        self.keeper = LeaseKeeper(tenant, verifier, self, self, self.told.append)
        self.task = asyncio.ensure_future(self.keeper.run())
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    # What a bucket does

    async def get(self, _: str) -> BucketEntry | None:
        entry: BucketEntry | None = await self._wait(self._key.get)
        return entry

    async def put(
        self, _: str, value: bytes, *, expected: int | None = None, ttl_s: int | None = None
    ) -> int:
        assert ttl_s == 10
        revision: int = await self._wait(lambda: self._key.put(value, expected))
        return revision

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        raise NotImplementedError

    async def keys(self, pattern: str = ">") -> list[str]:
        raise NotImplementedError

    def load(self, pattern: str = ">") -> AsyncIterator[BucketEntry]:
        raise NotImplementedError

    # What a clock does: it stands still, since the rules do not look at it

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, _: float) -> None:
        await self._wait(None)

    async def _wait(self, operation: Callable[[], Any] | None) -> Any:
        self.call = Call(operation, asyncio.get_running_loop().create_future())
        return await self.call.future

    # What is done to it

    @property
    def lives(self) -> bool:
        return not self.task.done()

    @property
    def has_stopped(self) -> bool:
        return self.task.done() and not self.task.cancelled()

    def step(self, fate: str = "answered") -> Callable[[], Any] | None:
        """Lets what it waits for happen; returns what is still to arrive."""
        call, self.call = self.call, None
        if call is None or call.future.done():
            return None
        if call.operation is None:
            call.future.set_result(None)
            return None
        if fate in {"answered", "answer lost"}:
            try:
                answer = call.operation()
            except SequenceConflict as error:
                answer = error
            if fate == "answered" and isinstance(answer, SequenceConflict):
                call.future.set_exception(answer)
            elif fate == "answered":
                call.future.set_result(answer)
        if not call.future.done():
            call.future.set_exception(LogUnavailable("no answer"))
        return call.operation if fate == "late" else None

    async def kill(self) -> Callable[[], Any] | None:
        """Ends it; what it sent may still arrive."""
        sent = self.call.operation if self.call else None
        self.task.cancel()
        with suppress(asyncio.CancelledError, IdentityCloned):
            await self.task
        return sent


@dataclass
class World:
    key: Key = field(default_factory=Key)
    runs: list[Run] = field(default_factory=list)
    late: list[Callable[[], Any]] = field(default_factory=list)

    async def settle(self) -> None:
        """Lets every run go on until it waits again."""
        while any(run.lives and run.call is None for run in self.runs):
            await asyncio.sleep(0)

    async def start(self) -> None:
        self.runs.append(Run(self.key, len(self.runs)))
        await self.settle()

    async def step(self, run: Run, fate: str = "answered") -> None:
        if run.lives and (left := run.step(fate)):
            self.late.append(left)
        await self.settle()

    async def kill(self, run: Run) -> None:
        if run.lives and (left := await run.kill()):
            self.late.append(left)

    async def do(self, action: Action) -> None:
        living = self.living()
        match action:
            case ("start", _, _) if len(self.runs) < RUNS_MAX:
                await self.start()
            case ("start again", _, _):
                for run in living:
                    await self.kill(run)
                await self.start()
            case ("step", index, fate) if living:
                await self.step(living[index % len(living)], fate)
            case ("kill", index, _) if living:
                await self.kill(living[index % len(living)])
            case _:
                self.befall(action)

    def befall(self, action: Action) -> None:
        """Lets something happen to the key."""
        match action:
            case ("arrive", index, _) if self.late:
                with suppress(SequenceConflict):
                    self.late.pop(index % len(self.late))()
            case ("run out", _, _):
                self.key.run_out()
            case ("lose", _, _):
                self.key.be_lost_with_the_server()
            case ("spoil", _, _):
                self.key.put(b"{}", None)
            case ("play back", index, _) if self.key.written:
                self.key.put(self.key.written[index % len(self.key.written)], None)

    async def calm(self) -> None:
        """Lets all that live go on, connected and in turn, long enough to agree."""
        for _ in range(ROUNDS):
            for run in self.runs:
                await self.step(run)

    def living(self) -> list[Run]:
        return [run for run in self.runs if run.lives]

    async def end(self) -> None:
        for run in self.runs:
            await self.kill(run)


def played(actions: list[Action], check: Callable[[World], None]) -> None:
    async def play() -> None:
        world = World()
        for action in actions:
            await world.do(action)
        await world.calm()
        for run in world.runs:
            note(f"{run.keeper.holder} {run.task} {run.keeper._claim}")
        check(world)
        await world.end()

    asyncio.run(play())


FATES = ["answered"] * 12 + ["lost", "answer lost", "late"]
MISHAPS = ["run out", "lose", "spoil", "play back", "arrive"]


def histories(*others: str) -> st.SearchStrategy[list[Action]]:
    names = ["step"] * 30 + MISHAPS + [*others] * 3
    action = st.tuples(st.sampled_from(names), st.integers(0, 99), st.sampled_from(FATES))
    return st.lists(action, min_size=20, max_size=80)


@settings(max_examples=300)
@given(histories("start"))
def test_of_runs_that_stay_alive_and_connected_exactly_one_remains(actions: list[Action]):
    def check(world: World) -> None:
        assert len(world.living()) == min(1, len(world.runs))

    played(actions, check)


@settings(max_examples=200)
@given(histories("start", "kill"))
def test_of_runs_of_which_some_are_killed_at_most_one_remains(actions: list[Action]):
    def check(world: World) -> None:
        assert len(world.living()) <= 1
        for run in world.runs:
            if run.has_stopped:
                assert isinstance(run.task.exception(), IdentityCloned)

    played(actions, check)


@settings(max_examples=200)
@given(histories("start again"))
def test_a_node_that_is_killed_and_started_again_never_stops_and_is_told_of_no_clone(
    actions: list[Action],
):
    def check(world: World) -> None:
        assert not [run for run in world.runs if run.has_stopped or run.told]
        assert len(world.living()) == min(1, len(world.runs))

    played(actions, check)
