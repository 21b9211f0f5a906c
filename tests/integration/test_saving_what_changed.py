"""A snapshot is saved for what changed, and not for what others repeat."""

from __future__ import annotations

from pathlib import Path

from builders import MESH, announced, evicted, registered
from http_support import DEADLINE_S, PinnedClock, served

from pmoves_mesh.agent.saver import Saver
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import Event


async def test_a_repetition_is_no_reason_to_save_the_registry_anew(tmp_path: Path):
    async with served(tmp_path) as mesh:
        mesh.replica.stream_id = "one"
        saver = Saver(MESH, mesh.replica, mesh.store, PinnedClock())
        alpha, operator = mesh.authority.identity("alpha"), mesh.authority.identity("root", "operator")

        async def is_saved(event: Event, message_id: str) -> bool:
            author = operator if event == evicted() else alpha
            position = mesh.broker.publish(envelope.seal(event, author, message_id=message_id), None)
            await mesh.replica.wait_position(position, DEADLINE_S)
            await mesh.is_current()
            await saver.save()
            stored = await mesh.store.load_snapshot()
            return stored is not None and stored.position == position

        assert await is_saved(announced(1, ()), "said")
        assert not await is_saved(announced(1, ()), "repeated")
        assert await is_saved(registered(2), "registered")
        assert not await is_saved(announced(1, ()), "repeated again")
        assert await is_saved(evicted(), "decreed")
