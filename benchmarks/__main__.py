"""`make bench`: prints the figures of the core, then those of two agents on a real nats-server.

`python -m benchmarks reliability` prints what faults of servers, network and agents cost instead.
"""

from __future__ import annotations

import os
import platform
import sys

from benchmarks import core, reliability, two_hosts
from benchmarks.mesh import Mesh


def main() -> None:
    """Runs everything; takes about two minutes on two cores."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if sys.argv[1:] == ["reliability"]:
        for line in reliability.run():
            print(line, flush=True)
        return
    print(f"\n{'what':<52} {'per second':>12} {'ratio':>8}  to")
    for figure in core.run(Mesh()):
        print(f"{figure.what:<52} {figure.per_second:>12,.0f} {figure.ratio:>8.2f}  {figure.baseline}")
    print()
    for line in two_hosts.run():
        print(line)


if __name__ == "__main__":
    main()
