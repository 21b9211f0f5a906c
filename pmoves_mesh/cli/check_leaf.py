"""What `doctor` asks the nats-server that a standalone host has for its own services."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.server.files import running_pid
from pmoves_mesh.server.leaf import DIRECTORY
from pmoves_mesh.server.leafz import complaint, reaches_hub
from pmoves_mesh.server.settings import ServerFiles


def _leaf(host: Host) -> Iterator[Complaint]:
    """It runs, and is connected to the hub."""
    config = host.config
    if not config.leaf:
        return
    files = ServerFiles(config.data_dir.absolute() / DIRECTORY / "nats")
    if running_pid(files) is None:
        what = f"no NATS server runs at port {config.nats_port} for the services of this host"
        yield Complaint("alarm", what, f"pmoves-mesh up; its log is {files.log}")
    elif not asyncio.run(reaches_hub(files)):
        why = cell(complaint(files))
        what = f"this host's NATS server is cut off from the hub{f' ({why})' if why else ''}"
        remedy = f"see that the hub runs, takes leaf nodes at port {config.leaf_port}, and is not firewalled"
        yield Complaint("warning", what, remedy)


CHECKS: Final = (
    Check("leaf node", _leaf, "this host's NATS server is connected to the hub, or none is wanted"),
)
