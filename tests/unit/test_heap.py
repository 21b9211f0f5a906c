"""Giving memory back, in a process of its own: this one's is in use by whatever ran before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path
from pmoves_mesh.agent.heap import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

empty = resident()
pieces = [bytes(1000) for _ in range(30_000)]
kept = pieces[::100]
full = resident()
del pieces
give_back()
print(empty, full, resident(), len(kept))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how much memory is in use")
def test_what_is_free_between_what_is_in_use_goes_back_to_the_system() -> None:
    libc = subprocess.run(["getconf", "GNU_LIBC_VERSION"], capture_output=True, check=False)
    if libc.returncode != 0:
        pytest.skip("the C library is not glibc, and keeps what it has")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=30)
    empty, full, after, _ = map(int, done.stdout.split())
    assert after - empty < (full - empty) / 2
