"""`make bench`: prints the figures of the core, of two agents on a real nats-server, and of liveness.

`python -m benchmarks NAME` prints others: `checks`, what it costs an agent to look after a thousand
services; `choosing`, what it costs to know of hosts and to choose among many; `dns`, how many questions an
agent answers; `history`, how soon any moment of a million events is told; `reliability`, what faults of
servers, network and agents cost; `sdk`, how fast a program resolves; `watch`, a thousand watchers on one
agent. `liveness 600` prints those of liveness alone, with its steady parts ten minutes long.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module

from benchmarks import core, liveness, two_hosts
from benchmarks.mesh import Mesh

NAMED = ("checks", "choosing", "dns", "history", "liveness", "reliability", "sdk", "watch")


def main(*arguments: str) -> None:
    """Runs what is named, or else what `make bench` does, which takes about eight minutes on two cores."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if arguments and arguments[0] in NAMED:
        for line in import_module(f"benchmarks.{arguments[0]}").run(*map(float, arguments[1:])):
            print(line, flush=True)
        return
    print(f"\n{'what':<52} {'per second':>12} {'ratio':>8}  to")
    for figure in core.run(Mesh()):
        print(f"{figure.what:<52} {figure.per_second:>12,.0f} {figure.ratio:>8.2f}  {figure.baseline}")
    for rows in (two_hosts.run(), liveness.run()):
        print()
        for line in rows:
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
