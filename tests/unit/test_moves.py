"""Those who wait for a replica: each is woken once, at the move that it waits for."""

from __future__ import annotations

import asyncio

from pmoves_mesh.moves import Moves


async def waiting(moves: Moves, position: int) -> asyncio.Task[None]:
    task = asyncio.create_task(moves.reaching(position))
    await asyncio.sleep(0)
    return task


async def settled(*tasks: asyncio.Task[None]) -> list[bool]:
    await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_whoever_waits_is_woken_at_its_position_or_beyond_and_not_before():
    moves = Moves()
    tasks = [await waiting(moves, position) for position in (5, 7, 9)]
    moves.tell(4)
    assert await settled(*tasks) == [False, False, False]
    moves.tell(7)
    assert await settled(*tasks) == [True, True, False]
    moves.tell(100)
    assert await settled(*tasks) == [True, True, True]


async def test_whoever_waits_for_any_move_is_woken_at_the_next_one():
    moves = Moves()
    moves.tell(3)
    task = await waiting(moves, 0)
    assert await settled(task) == [False]
    moves.tell(3)
    assert await settled(task) == [True]


async def test_all_who_wait_for_one_position_are_woken():
    moves = Moves()
    tasks = [await waiting(moves, 5) for _ in range(3)]
    moves.tell(5)
    assert await settled(*tasks) == [True, True, True]


async def test_whoever_gave_up_leaves_nothing_behind():
    moves = Moves()
    tasks = [await waiting(moves, 5) for _ in range(2)]
    tasks[0].cancel()
    moves.tell(5)
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False]
    lonely = await waiting(moves, 10**9)
    lonely.cancel()
    await asyncio.wait((lonely,))
    assert moves._waiting == {}
