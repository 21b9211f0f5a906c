"""A stream that can be read back, and a store of checkpoints, both in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence

from builders import Authority
from pinned import PINNED

from pmoves_mesh.agent.history.replay import Replayer
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.moments import Kept
from pmoves_mesh.log.memory import MemoryBucket, MemoryClient
from pmoves_mesh.ports import LogMessage
from pmoves_mesh.verifier import Verifier

STREAM = "2026-01-01T00:00:00Z"


class MemoryPast:
    """The messages of a stream, of which the first ones may be gone."""

    def __init__(self, messages: Iterable[LogMessage], *, first: int = 1, stream_id: str = STREAM) -> None:
        self.all = list(messages)
        self.first = first
        self.stream_id = stream_id

    @property
    def messages(self) -> list[LogMessage]:
        return [message for message in self.all if message.position >= self.first]

    async def kept(self) -> Kept:
        held = self.messages
        return Kept(
            first=held[0].position if held else 1,
            last=held[-1].position if held else 0,
            first_ms=held[0].time_ms if held else 0,
            last_ms=held[-1].time_ms if held else 0,
            stream_id=self.stream_id,
        )

    async def stretch(
        self, after: int, last: int, subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        assert not subjects
        chosen = [message for message in self.messages if after < message.position <= last]
        for begin in range(0, len(chosen), 3):
            yield chosen[begin : begin + 3]


class MemoryCheckpoints:
    """Checkpoints by their place."""

    def __init__(self) -> None:
        self.held: dict[Place, bytes] = {}
        self.read_count = 0

    async def listed(self) -> Sequence[Place]:
        return sorted(self.held)

    async def read(self, place: Place) -> bytes | None:
        self.read_count += 1
        return self.held[place] or None

    async def write(self, place: Place, data: bytes) -> bool:
        if any(one.position == place.position and one.stream_id == place.stream_id for one in self.held):
            return False
        self.held[place] = data
        return True

    async def delete(self, place: Place) -> None:
        self.held.pop(place, None)


def replayer_of(
    past: MemoryPast, checkpoints: MemoryCheckpoints, authority: Authority, client: MemoryClient
) -> Replayer:
    """Returns a replayer that reads a stream in memory, with everybody admitted whom the CA knows."""
    identities = MemoryBucket(client, "identities")
    verifier = Verifier(authority.trust, identities, PINNED, accept_unsigned=True)
    return Replayer(past, checkpoints, MemoryBucket(client, "registry"), verifier)
