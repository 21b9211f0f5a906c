"""The registry at any moment of the past is what it was, however it is told."""

from __future__ import annotations

import asyncio
import random

from builders import MESH
from histories import AUTHORITY, World, worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_past import STREAM, MemoryCheckpoints, MemoryPast, replayer_of
from pinned import PINNED

from pmoves_mesh.core import checkpoint
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.moments import Moment
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

KEEPER = AUTHORITY.identity("keeper")
DEADLINE_S = 10.0


def at(position: int) -> Moment:
    return Moment(field="at", position=position)


async def told(world: World, position: int, cut: int) -> None:
    broker = MemoryBroker(PINNED)
    client = MemoryClient(broker, random.Random(1))
    for message in world.messages:
        broker.publish(message.sealed, None)
    messages, _ = broker.after(0, 10_000)
    if not messages:
        return
    position, cut = 1 + position % len(messages), 1 + cut % len(messages)
    past, checkpoints = MemoryPast(messages), MemoryCheckpoints()
    kept = await past.kept()
    full = await replayer_of(past, checkpoints, AUTHORITY, client).at(at(position), kept)

    held = await replayer_of(past, checkpoints, AUTHORITY, client).at(at(cut), kept)
    place = Place(position=cut, time_ms=held.time_ms, stream_id=STREAM)
    checkpoints.held[place] = checkpoint.seal(held.registry, MESH, place, KEEPER)
    partly = await replayer_of(past, checkpoints, AUTHORITY, client).at(at(position), kept)

    assert (partly.checkpoint is not None) == (cut <= position)
    assert partly.position == full.position == position
    assert partly.registry.state() == full.registry.state()
    assert (await then(client, messages, position)).registry.state() == full.registry.state()


async def then(client: MemoryClient, messages: list, position: int) -> Replica:
    """Returns a replica that has followed the stream up to a position, and no further."""
    broker = MemoryBroker(PINNED)
    earlier = MemoryClient(broker, random.Random(1))
    for message in messages[:position]:
        broker.publish(message.sealed, None)
    verifier = Verifier(AUTHORITY.trust, MemoryBucket(client, "identities"), PINNED, accept_unsigned=True)
    replica = Replica(verifier, MemoryLog(earlier), MemoryBucket(earlier, "registry"), PINNED)
    following = asyncio.create_task(replica.run())
    await replica.wait_position(position, DEADLINE_S)
    following.cancel()
    await asyncio.wait((following,))
    return replica


@settings(deadline=None)
@given(worlds(), st.integers(0, 40), st.integers(0, 40))
def test_a_checkpoint_and_the_tail_give_what_a_full_replay_gives_and_a_replica_had(
    world: World, position: int, cut: int
) -> None:
    asyncio.run(told(world, position, cut))
