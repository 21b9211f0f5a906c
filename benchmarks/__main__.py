"""`make bench`: prints the figures of the core, then those of two agents on a real nats-server.

`python -m benchmarks checks` prints what it costs an agent to look after a thousand services.
"""

from __future__ import annotations

import os
import platform
import sys

from benchmarks import checks, core, two_hosts
from benchmarks.mesh import Mesh


def main() -> None:
    """Runs what is named, or else what `make bench` does, which takes about two minutes on two cores."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if sys.argv[1:] == ["checks"]:
        for line in checks.run():
            print(line)
        return
    print(f"\n{'what':<52} {'per second':>12} {'ratio':>8}  to")
    for figure in core.run(Mesh()):
        print(f"{figure.what:<52} {figure.per_second:>12,.0f} {figure.ratio:>8.2f}  {figure.baseline}")
    print()
    for line in two_hosts.run():
        print(line)


if __name__ == "__main__":
    main()
