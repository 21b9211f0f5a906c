"""The Docker probe: asks the engine of this host how one of its containers is.

An engine that is not there says nothing about the container, so the instance is then unknown.

Source: Docker Engine API 1.24 and later, `GET /containers/{id}/json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import aiohttp
import msgspec
from msgspec import Struct

from pmoves_mesh.agent.health.reach import not_probed
from pmoves_mesh.core.check import DockerCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance

SOCKET: Final = Path("/var/run/docker.sock")
ANSWER_BYTES_MAX: Final = 1024 * 1024

_CHUNK_BYTES: Final = 64 * 1024


class _Health(Struct, frozen=True, rename="pascal"):
    """What a container's own health check found: `starting`, `healthy`, `unhealthy`, or `none`."""

    status: str = "none"


class _State(Struct, frozen=True, rename="pascal"):
    """Whether a container runs, and how."""

    running: bool = False
    status: str = ""
    health: _Health | None = None


class _Container(Struct, frozen=True, rename="pascal"):
    """What the engine says of a container, as far as it matters here."""

    state: _State


class DockerProbe:
    """Asks the engine through its socket; enter it before use."""

    def __init__(self, socket: Path = SOCKET) -> None:
        """Takes where the engine listens."""
        self._socket = socket

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._socket), limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(), trust_env=False
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def __call__(self, instance: Instance, check: DockerCheck) -> Finding:
        """Returns what the engine says of the container; whoever calls sets the time that it may take."""
        del instance
        try:
            async with self._session.get(f"http://docker/containers/{check.container}/json") as response:
                if response.status == 404:
                    return Finding(passed=False, output="no such container")
                if response.status != 200:
                    return not_probed(f"the Docker engine answers with HTTP {response.status}")
                return _judge(msgspec.json.decode(await _read(response), type=_Container).state)
        except aiohttp.ClientConnectorError as error:
            return not_probed(f"no Docker engine at {self._socket} ({error.os_error.strerror})")
        except (aiohttp.ClientError, OSError):
            return not_probed("the Docker engine broke off its answer")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return not_probed("what the Docker engine answers is not understood")


def _judge(state: _State) -> Finding:
    found = state.health.status if state.health else "none"
    if not state.running:
        return Finding(passed=False, output="the container does not run")
    if state.status == "paused":
        return Finding(passed=False, output="the container is paused")
    if found in {"healthy", "unhealthy"}:
        return Finding(passed=found == "healthy", output=f"the container is {found}")
    if found == "starting":
        return Finding(passed=None, output="the container is starting")
    return Finding(passed=True, output="the container runs")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while len(body) <= ANSWER_BYTES_MAX and (chunk := await response.content.read(_CHUNK_BYTES)):
        body += chunk
    return bytes(body)
