"""Kill -9 at any moment, a full disk, damaged files: nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pmoves_mesh.store.store import DATABASE_FILE, Store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 40

# One process per life of an agent, forked so that forty lives cost forty forks and not forty imports.
KILLED = """
import asyncio, itertools, json, os, random, signal, sys
from pathlib import Path
from builders import NOW_MS, Authority
from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.store import Store
from pmoves_mesh.verifier import Verifier

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")

class PinnedClock(SystemClock):
    def now_ms(self):
        return NOW_MS

async def live(life, told):
    clock = PinnedClock()
    client = MemoryClient(MemoryBroker(clock), random.Random(1))
    client.disconnect()
    log = MemoryLog(client)
    verifier = Verifier(AUTHORITY.trust, MemoryBucket(client, "identities"), clock)
    replica = Replica(verifier, log, MemoryBucket(client, "registry"), clock)
    async with Store.opened(Path(sys.argv[1])) as store:
        author = Author("alpha", ALPHA, store, replica, Outbox(store, log, clock), clock)
        await author.begin()
        registrations = Registrations(author, replica, log, clock, host="alpha", mode="docked")
        registrations.restore(await store.registrations())

        async def call(caller):
            for number in itertools.count():
                name = f"s-{life}-{caller}-{number}"
                await registrations.register(Registration(name=name, port=1))
                os.write(told, f"+{name}\\n".encode())
                if number % 3 == 0:
                    os.write(told, f"?{name}\\n".encode())
                    await registrations.deregister(name)
                    os.write(told, f"-{name}\\n".encode())

        await asyncio.gather(*(call(caller) for caller in range(8)))

for life in range(int(sys.argv[2])):
    reads, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        asyncio.run(live(life, told))
    os.close(told)
    rng = random.Random(life)
    said = b""
    wanted = rng.randrange(1, 4000)
    while len(said) < wanted and (more := os.read(reads, 4096)):
        said += more
    os.kill(child, signal.SIGKILL)
    while more := os.read(reads, 65536):
        said += more
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    print(json.dumps(said.decode().splitlines()), flush=True)
"""


async def test_an_agent_killed_forty_times_while_it_registers_has_everything_that_it_acknowledged(
    tmp_path: Path,
):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(KILLS)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lives = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(lives) == KILLS, ran.stderr
    said = [line for life in lives for line in life]
    asked = {line[1:] for line in said if line[0] == "?"}
    removed = {line[1:] for line in said if line[0] == "-"}
    kept = {line[1:] for line in said if line[0] == "+"} - asked
    async with Store.opened(tmp_path) as store:
        held = {one.service for one in await store.registrations()}
        waiting = [json.loads(entry.sealed.payload) for entry in await store.outbox(1_000_000)]
    assert len(kept) > KILLS
    assert not kept - held
    assert not removed & held
    stated = {one["service"] for one in waiting if one["type"] == "registered"}
    assert held | removed <= stated
    stamps = [(one["incarnation"], one["revision"]) for one in waiting if one["type"] != "unregistered"]
    assert stamps == sorted(set(stamps))


FILLING = """
import asyncio, sys
from pathlib import Path
from pmoves_mesh.errors import StoreError
from pmoves_mesh.store.records import Commit, NodeState, StoredRegistration
from pmoves_mesh.store.store import Store

async def main():
    async with Store.opened(Path(sys.argv[1])) as store:
        number, head = store.state.revision, store.state.head
        while True:
            number += 1
            one = StoredRegistration(
                service=f"s-{number}", id="1", record=b"x" * 4096, incarnation=1, revision=number
            )
            commit = Commit(
                state=NodeState(incarnation=1, revision=number, head=str(number)), upserts=[one], follows=head
            )
            try:
                await store.commit(commit)
            except StoreError as error:
                print(error, flush=True)
                return
            head = str(number)
            print(number, flush=True)

asyncio.run(main())
"""


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Makes a file system of 1 MiB at `path`, where this user may."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def fill(data_dir: Path, bytes_max: int | None = None) -> list[str]:
    """Registers until the disk takes no more; returns what was said."""

    def limit() -> None:
        if bytes_max is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

    ran = subprocess.run(
        [sys.executable, "-c", FILLING, data_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


async def check_kept(data_dir: Path, said: list[str]) -> int:
    *acknowledged, problem = said
    assert "full" in problem
    assert len(acknowledged) > 10
    async with Store.opened(data_dir) as store:
        held = await store.registrations()
        assert [one.revision for one in sorted(held, key=lambda one: one.revision)] == [
            int(number) for number in acknowledged
        ]
        assert store.state.revision == int(acknowledged[-1])
    return len(held)


async def test_a_full_disk_ends_registering_in_one_line_and_keeps_what_was_acknowledged(tmp_path: Path):
    disk = tmp_path / "disk"
    with small_disk(disk):
        (disk / "ballast").write_bytes(b"x" * 200_000)
        said = fill(disk / "data")
        (disk / "ballast").unlink()
        before = await check_kept(disk / "data", said)
        more = fill(disk / "data")
        assert len(more) > 1, "with some space it goes on"
        async with Store.opened(disk / "data") as store:
            assert len(await store.registrations()) == before + len(more) - 1


async def test_a_file_that_may_not_grow_is_said_in_one_line_and_keeps_what_was_acknowledged(tmp_path: Path):
    said = fill(tmp_path, bytes_max=1 << 19)
    await check_kept(tmp_path, said)


def spoil(path: Path, how: str) -> bytes:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "overwritten":
        content = bytearray(b"no database" * 5000)
    else:
        content[8192:-4096] = b"\xa5" * (len(content) - 12288)
    path.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("how", ["truncated", "overwritten", "damaged"])
def test_an_agent_whose_database_is_spoiled_ends_with_one_line_and_leaves_it_as_it_is(
    tmp_path: Path, how: str
):
    data_dir = tmp_path / "data"
    fill(data_dir, bytes_max=1 << 19)
    spoilt = spoil(data_dir / DATABASE_FILE, how)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_"))
    }
    ran = subprocess.run(
        [sys.executable, "-m", "pmoves_mesh", "agent"],
        cwd=tmp_path,
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "MESH_HOSTNAME": "alpha",
            "SERVICE_REGISTRY_PORT": "0",
            "NATS_URL": "nats://127.0.0.1:1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, ran.stderr
    assert str(data_dir / DATABASE_FILE) in lines[0]
    assert "move it away" in lines[0]
    assert (data_dir / DATABASE_FILE).read_bytes() == spoilt
