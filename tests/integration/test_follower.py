"""The follower against the memory log: where it has its replica begin."""

from __future__ import annotations

import pytest
from builders import registered
from following import Joining

from pmoves_mesh.core import records


@pytest.mark.parametrize("knows", [False, True])
async def test_nobody_waits_for_events_that_neither_the_stream_nor_the_bucket_has(*, knows: bool):
    mesh = Joining()
    for revision in (1, 2, 3):
        mesh.publish(revision)
    mesh.replica.stream_id = (await mesh.replica._log.bounds()).stream_id if knows else ""
    for position in (1, 2):
        mesh.lose(position)
    async with mesh.following():
        assert mesh.replica.position == 3
        assert mesh.replica.repairs["truncated"] == knows


async def test_a_newcomer_reads_the_bucket_once_where_it_is_of_this_stream():
    mesh = Joining()
    await mesh.keep(registered(1), mesh.publish(1))
    async with mesh.following():
        assert mesh.position() == 1
        assert mesh.bucket.read == 1


@pytest.mark.parametrize("position", [1, 7])
async def test_a_newcomer_takes_the_bucket_of_an_earlier_stream_for_what_was_before_this_one(position: int):
    mesh = Joining()
    await mesh.keep(registered(2), position)
    mesh.publish(1)
    async with mesh.following():
        assert mesh.position() == 0
        entry = await mesh.bucket.get(records.key_of(registered(2)))
        assert entry is not None
        assert records.decode(entry.value).position == 0
