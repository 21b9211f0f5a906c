"""The TCP probe: an instance passes if it takes a connection."""

from __future__ import annotations

from collections.abc import Iterable

from pmoves_mesh.agent.health.reach import connect, not_probed, place_problem, unconnected
from pmoves_mesh.core.check import TcpCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.target import canonical


class TcpProbe:
    """Connects to an instance, says nothing, and closes."""

    def __init__(self, own_hosts: Iterable[str]) -> None:
        """Takes the names and addresses of this node."""
        self._own_hosts = frozenset(map(canonical, own_hosts))

    async def __call__(self, instance: Instance, check: TcpCheck) -> Finding:
        """Returns whether the instance takes a connection; whoever calls sets the time that it may take."""
        port = check.port or instance.port
        if problem := place_problem(instance, port, self._own_hosts):
            return not_probed(problem)
        try:
            connection = await connect(instance.host, port)
        except OSError as error:
            return unconnected(error)
        connection.close()
        return Finding(passed=True, output=f"port {port} takes connections")
