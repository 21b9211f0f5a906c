"""The follower against the memory log: where it has its replica begin."""

from __future__ import annotations

import pytest
from following import Joining


@pytest.mark.parametrize("knows", [False, True])
async def test_nobody_waits_for_events_that_neither_the_stream_nor_the_bucket_has(*, knows: bool):
    mesh = Joining()
    for revision in (1, 2, 3):
        mesh.publish(revision)
    mesh.replica.stream_id = (await mesh.replica._log.bounds()).stream_id if knows else ""
    for position in (1, 2):
        mesh.lose(position)
    async with mesh.following() as replica:
        assert replica.position == 3
        assert replica.repairs["truncated"] == knows
