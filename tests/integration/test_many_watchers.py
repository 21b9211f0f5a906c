"""A thousand watchers on one agent: what they cost it, and that every one is told of a change."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, mesh_in, note

pytestmark = pytest.mark.timeout(180)

WATCHERS = 1000
BYTES_MAX = 60_000_000
CHANGES = 5
DEADLINE_S = 30.0
TOLD_S = 0.5
"""Ten times the aim, which `python -m benchmarks watch` measures: others use this machine as well."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


@pytest.fixture
def agent(mesh: Mesh) -> Iterator[AgentProcess]:
    """An agent that was started with the usual limit of 1024 open files."""
    low, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 2 * WATCHERS:
        pytest.skip(f"at most {most} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, low), most))
    started = mesh.agent("alpha").start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(low, 2 * WATCHERS), most))
    yield started.ready()
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, most))


def private_bytes(agent: AgentProcess) -> int:
    pid = (agent.data_dir / "agent.pid").read_text().split()[0]
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def watchers(agent: AgentProcess, count: int) -> AsyncIterator[list[Connection]]:
    """Opens connections, each of which has been shown what matches."""
    host, _, port = agent.url.removeprefix("http://").rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for _, writer in opened:
        writer.write(b"GET /api/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.gather(*(heard(one, b"event: snapshot") for one in opened))
    yield opened
    for _, writer in opened:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in opened), return_exceptions=True)


async def heard(connection: Connection, event: bytes) -> float:
    """Returns when a watcher has read an event to its end."""
    reader, _ = connection
    async with asyncio.timeout(DEADLINE_S):
        await reader.readuntil(event)
        await reader.readuntil(b"\n\n")
    return time.perf_counter()


async def test_a_thousand_watchers_cost_less_than_60_mb_and_every_one_is_told(agent: AgentProcess):
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("only Linux tells how much memory is a process's own")
    await asyncio.to_thread(agent.register, "whisper", id="1", port=9000)
    async with watchers(agent, 10):
        before = private_bytes(agent)
    lasts = []
    async with watchers(agent, WATCHERS) as opened:
        for number in range(CHANGES):
            begin = time.perf_counter()
            telling = asyncio.to_thread(agent.register, "whisper", id="1", port=9001 + number)
            _, *times = await asyncio.gather(telling, *(heard(one, b"event: changed") for one in opened))
            lasts.append(max(times) - begin)
        cost = private_bytes(agent) - before
    note(f"{WATCHERS} watchers: {cost / 1e6:.1f} MB; the last is told after {statistics.median(lasts):.3f} s")
    assert cost < BYTES_MAX
    assert statistics.median(lasts) < TOLD_S
