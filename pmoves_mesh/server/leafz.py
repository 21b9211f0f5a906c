"""Whether a host's nats-server is connected to the hub as a leaf node: asked of the server itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from pmoves_mesh.server.files import last_lines, running_pid
from pmoves_mesh.server.settings import ServerFiles

_ANSWER_S: Final = 2.0
_ABOUT: Final = ("leafnode", "Leafnode", "TLS")
_NAME: Final = ".mesh.internal."


class _Ports(msgspec.Struct):
    monitoring: list[str] = []


class _Leafs(msgspec.Struct):
    leafs: list[msgspec.Raw] | None = None


async def reaches_hub(files: ServerFiles) -> bool:
    """Returns whether the server of a directory runs and is connected to the hub; within 2 seconds.

    Source: docs.nats.io, "Monitoring", `/leafz`.
    """
    pid = await asyncio.to_thread(running_pid, files)
    if pid is None:
        return False
    try:
        url = await asyncio.to_thread(_monitoring, files.directory, pid)
        limit = aiohttp.ClientTimeout(total=_ANSWER_S)
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(f"{url}/leafz") as answer:
            return bool(msgspec.json.decode(await answer.read(), type=_Leafs).leafs)
    except (OSError, aiohttp.ClientError, msgspec.MsgspecError, TimeoutError):
        return False


def complaint(files: ServerFiles) -> str:
    """Returns what the server said last about a connection to the hub that failed; empty if nothing."""
    said = [
        line for line in last_lines(files.log) if "[ERR]" in line and any(word in line for word in _ABOUT)
    ]
    # The address that stands for a name, which `leaf.spoke_block` adds, is meant not to be found.
    said = [line for line in said if ".mesh.internal." not in line]
    return said[-1].partition("[ERR] ")[2][:300] if said else ""


def _monitoring(directory: Path, pid: int) -> str:
    """Returns where a server answers questions about itself, and clears away what others left.

    Raises:
        OSError: if it does not say, or not yet.
        MsgspecError: if what it says is no use.
    """
    for path in directory.glob("*.ports"):
        if path.stem.endswith(f"_{pid}"):
            return msgspec.json.decode(path.read_bytes(), type=_Ports).monitoring[0]
        path.unlink(missing_ok=True)
    raise FileNotFoundError(f"{directory}: no file of ports")
