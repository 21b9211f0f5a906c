"""The Docker probe: asks the engine of this host how one of its containers is.

An engine that is not there says nothing about the container, so the instance is then unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pmoves_mesh.agent.containers.engine import DOCKER_SOCKET, Engine, EngineAwayError
from pmoves_mesh.agent.containers.inspected import judge
from pmoves_mesh.agent.health.reach import not_probed
from pmoves_mesh.core.check import DockerCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance


class DockerProbe:
    """Asks the engine through its socket; enter it before use."""

    def __init__(self, sockets: Sequence[Path] = (DOCKER_SOCKET,)) -> None:
        """Takes where the engine may listen."""
        self._engine = Engine(sockets)

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._engine.__aexit__(*error)

    async def __call__(self, instance: Instance, check: DockerCheck) -> Finding:
        """Returns what the engine says of the container; whoever calls sets the time that it may take."""
        del instance
        try:
            container = await self._engine.inspect(check.container)
        except EngineAwayError as error:
            return not_probed(str(error))
        if container is None:
            return Finding(passed=False, output="no such container")
        return judge(container.state)
