"""`make bench`: prints the figures of the core, of two agents on a real nats-server, and of liveness.

`python -m benchmarks liveness 600` prints those of liveness alone, with its steady parts ten minutes long.
"""

from __future__ import annotations

import os
import platform
import sys

from benchmarks import core, liveness, two_hosts
from benchmarks.mesh import Mesh


def main(*arguments: str) -> None:
    """Runs what is named, or everything; that takes about eight minutes on two cores."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if arguments[:1] == ("liveness",):
        _print_liveness(*map(float, arguments[1:]))
        return
    print(f"\n{'what':<52} {'per second':>12} {'ratio':>8}  to")
    for figure in core.run(Mesh()):
        print(f"{figure.what:<52} {figure.per_second:>12,.0f} {figure.ratio:>8.2f}  {figure.baseline}")
    print()
    for line in two_hosts.run():
        print(line)
    _print_liveness()


def _print_liveness(*seconds: float) -> None:
    print()
    for line in liveness.run(*seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
