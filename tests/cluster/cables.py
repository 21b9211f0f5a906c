"""A bad cable: what a host sends is delayed, and a part of it lost.

`tc netem` does it where the kernel has it, elsewhere a program of ours in the place of the cable.

Source: tc-netem(8).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from namespaces import Namespace

WIRE: Final = Path(__file__).with_name("wire.py")


@dataclass(frozen=True)
class Fault:
    """What a bad cable does to what a host sends.

    Attributes:
        delay_ms: how long each frame takes longer.
        loss: the part of the frames that never arrives, 0 to 1.
    """

    delay_ms: int
    loss: float


@contextmanager
def degraded(host: Namespace, fault: Fault) -> Iterator[str]:
    """Gives a host a bad cable while the context lasts, and says by what means."""
    netem = ("netem", "delay", f"{fault.delay_ms}ms", "loss", f"{fault.loss:.2%}")
    if _run("tc", "-n", host.name, "qdisc", "add", "dev", "eth0", "root", *netem):
        try:
            yield "tc netem"
        finally:
            _run("tc", "-n", host.name, "qdisc", "delete", "dev", "eth0", "root")
        return
    hub, port = host.name.rpartition("-")[0], f"v{host.name.removeprefix('mesh-')}"
    inner, outer = f"w{port[1:]}", f"x{port[1:]}"
    ip = ("ip", "-n", hub, "link")
    subprocess.run([*ip, "add", inner, "type", "veth", "peer", "name", outer], check=True)
    subprocess.run([*ip, "set", inner, "up", "promisc", "on"], check=True)
    program = [
        *("ip", "netns", "exec", hub, sys.executable, str(WIRE)),
        *(port, inner, str(fault.delay_ms), str(fault.loss)),
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            subprocess.run([*ip, "set", port, "nomaster", "promisc", "on"], check=True)
            subprocess.run([*ip, "set", outer, "master", "bridge", "up"], check=True)
            yield "a cable of our own"
        finally:
            process.kill()
            _run(*ip, "delete", inner)
            _run(*ip, "set", port, "promisc", "off", "master", "bridge")


def _run(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
