"""What of NATS microservices this agent takes part in, by where it stands."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.micro.answering import Answering, of_mesh, of_node
from pmoves_mesh.agent.micro.finding import Finding, Place
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.trust.trusted import keeps_ca
from pmoves_mesh.core.model import Instance
from pmoves_mesh.ports import Reporter
from pmoves_mesh.replica import Replica


def micro_loops(
    ground: Ground, registrations: Registrations, reporter: Reporter, replica: Replica
) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """Returns the loops that answer on `$SRV`, and that find who answers there.

    In a secured mesh the services have an account of their own, in which of all agents only the one
    is that runs the server: it alone finds them, and answers them for the whole mesh. See `docs/adr/0035`.
    """
    config = ground.config
    if config.mesh_tls and not keeps_ca(config):
        return ()

    def instances(service: str) -> Iterable[Instance]:
        if config.mesh_tls:
            return of_mesh(replica.registry, service)
        return of_node(registrations, service)

    answering = Answering(ground.connection, instances, ground.clock)
    place = Place(node=config.node, alone=config.mesh_tls)
    finding = Finding(place, ground.connection, registrations, reporter, replica, ground.clock)
    return answering.run, finding.run
