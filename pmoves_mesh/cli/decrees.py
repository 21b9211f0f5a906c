"""How a command decrees: it signs, waits until this host's agent has heeded it, and says where it stands."""

from __future__ import annotations

from typing import Final, NamedTuple

import click

from pmoves_mesh.agent import operator
from pmoves_mesh.agent.operator import Build
from pmoves_mesh.cli.client import AgentClient
from pmoves_mesh.cli.streams import only_errors
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.errors import ConfigError

_HEEDED_WITHIN_S: Final = 10.0


class Decreed(NamedTuple):
    """What became of a decree.

    Attributes:
        position: where in the stream it stands.
        heeded: whether this host's agent has folded it in; False where none answers, or not in time.
    """

    position: int
    heeded: bool

    def __str__(self) -> str:
        return f"position {self.position}{'' if self.heeded else ', not heeded by an agent here yet'}"


def decree(config: Config, build: Build, issuer: str | None = None) -> Decreed:
    """Publishes a decree and waits for this host's agent, if one runs.

    Args:
        config: the settings.
        build: makes the event.
        issuer: fingerprint of the CA certificate under which it has to be signed; None for any.

    Raises:
        click.ClickException: if the agent refused it.
        PkiError: if this host may not decree.
        LogError: if the log does not take it.
    """
    only_errors()
    position = operator.run(config, build, SystemClock(), issuer)
    return Decreed(position, _heeded(config, position))


def _heeded(config: Config, position: int) -> bool:
    try:
        status = AgentClient(config, _HEEDED_WITHIN_S).get("/api/status", {"min_position": str(position)})
    except (ConfigError, click.ClickException):
        return False
    for refusal in status.record("registry").get("rejections") or ():
        if isinstance(refusal, dict) and refusal.get("position") == position:
            raise click.ClickException(
                f"the mesh refuses what stands at position {position}: {refusal.get('detail')}"
            )
    return True
