"""Every kind of check and the probe that makes it, as one probe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self, assert_never

from cryptography import x509

from pmoves_mesh.agent.containers.engine import DOCKER_SOCKET
from pmoves_mesh.agent.health.command_probe import CommandProbe
from pmoves_mesh.agent.health.docker_probe import DockerProbe
from pmoves_mesh.agent.health.grpc_probe import GrpcProbe
from pmoves_mesh.agent.health.http_probe import HttpProbe
from pmoves_mesh.agent.health.reach import not_probed
from pmoves_mesh.agent.health.tcp_probe import TcpProbe
from pmoves_mesh.core.check import (
    Check,
    CommandCheck,
    DockerCheck,
    GrpcCheck,
    HttpCheck,
    TcpCheck,
    TtlCheck,
)
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance


def checks_of(
    own_hosts: frozenset[str],
    roots: Callable[[], tuple[x509.Certificate, ...]],
    *,
    command_checks: bool,
    engine_sockets: tuple[Path, ...] = (DOCKER_SOCKET,),
) -> Checks:
    """Returns what makes a node's checks.

    Args:
        own_hosts: the names and addresses of this node.
        roots: gives the mesh's CA certificates, which are believed beside the system's.
        command_checks: whether a check may run a command.
        engine_sockets: where a container engine may listen.
    """
    return Checks(
        HttpProbe(own_hosts, roots),
        TcpProbe(own_hosts),
        GrpcProbe(own_hosts),
        CommandProbe(allowed=command_checks),
        DockerProbe(engine_sockets),
    )


class Checks:
    """Makes whichever check an instance has; enter it before use."""

    def __init__(
        self, http: HttpProbe, tcp: TcpProbe, grpc: GrpcProbe, command: CommandProbe, docker: DockerProbe
    ) -> None:
        """Takes a probe for each kind of check, those not entered yet that need it."""
        self._http = http
        self._tcp = tcp
        self._grpc = grpc
        self._command = command
        self._docker = docker

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._http)
            await stack.enter_async_context(self._docker)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._entered.aclose()

    async def __call__(self, instance: Instance, check: Check) -> Finding:
        """Returns what the check finds; whoever calls sets the time that it may take."""
        match check:
            case HttpCheck():
                return await self._http(instance, check)
            case TcpCheck():
                return await self._tcp(instance, check)
            case GrpcCheck():
                return await self._grpc(instance, check)
            case CommandCheck():
                return await self._command(instance, check)
            case DockerCheck():
                return await self._docker(instance, check)
            case TtlCheck():
                return not_probed("it reports by itself")
            case _:
                assert_never(check)
