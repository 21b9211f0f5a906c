"""The custody of keys and certificates: given, renewed, rotated, and known to whoever must know."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, Final

import structlog

from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.leaf import leaf_held
from pmoves_mesh.agent.link import Link
from pmoves_mesh.agent.trust.access import AccessKeeper
from pmoves_mesh.agent.trust.admission import Admission, notes
from pmoves_mesh.agent.trust.ca_client import Holder
from pmoves_mesh.agent.trust.enroller import LocalEnroller, RemoteEnroller
from pmoves_mesh.agent.trust.issuing import Issuing
from pmoves_mesh.agent.trust.joining import joining_settings
from pmoves_mesh.agent.trust.renewal import Held, Renewals, held_here
from pmoves_mesh.agent.trust.roots import RootsKeeper
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR, identity_files, keeps_ca
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import LogError, StartError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

_RETRY_S: Final = 1.0

Loop = Callable[[], Coroutine[Any, Any, None]]


class Custody:
    """Puts together what has to do with certificates.

    Attributes:
        enroller: gives certificates, or knows who does.
        loops: run while the agent does.
        joined_loops: run once it has joined the mesh.
        http_port: at which this agent's HTTP API answers; set when it is known.
        restate: makes this node announce itself anew; set when it can.
    """

    def __init__(self, ground: Ground, replica: Replica, author: Author, link: Link) -> None:
        self.http_port = ground.config.http_port
        self.restate: Callable[[], None] = _nothing
        self._ground = ground
        self._replica = replica
        self._author = author
        self._link = link
        config, clock = ground.config, ground.clock
        self._access = (
            None
            if ground.door is None
            else AccessKeeper(ground.door, ground.issued, replica, ground.access, clock)
        )
        loops: list[Loop] = [] if self._access is None else [self._access.run]
        if ground.told is not None:
            ground.told.urls = self._ca_urls
            loops.append(ground.told.run)
        joined: list[Loop] = []
        if keeps_ca(config):
            identities = NatsBucket(ground.connection, topology.IDENTITIES)
            tell = None if self._access is None else self._access.tell
            admission = Admission(ground.ledger, ground.trust, identities, tell, clock)
            local = self._local_enroller(admission)
            self.enroller: LocalEnroller | RemoteEnroller = local
            joined += [admission.run, local.run]
        else:
            holder = Holder(*identity_files(config))
            self.enroller = RemoteEnroller(ground.identity.id, config.tls_dir, self._ca_urls, holder)
        renewals = Renewals(ground.trust, self.enroller, self._held, self._renewed, clock)

        async def look() -> None:
            renewals.look()

        told = (link.rejoin, look) if self._access is None else (self._access.tell, link.rejoin, look)
        roots = RootsKeeper(config, replica, told, ground.clock)
        self.loops: Final = (*loops, renewals.run)
        self.joined_loops: Final = (*joined, roots.run)

    def _local_enroller(self, admission: Admission) -> LocalEnroller:
        config = self._ground.config
        passphrase = config.ca_passphrase.reveal() if config.ca_passphrase else None
        return LocalEnroller(
            Issuing(config.tls_dir, config.mesh, config.node, passphrase),
            self._ground.clock,
            issued=admission.issued,
            note=notes(self._author),
            settings=self._settings,
        )

    def _settings(self, node: str) -> dict[str, str]:
        """Returns what a new node writes into its `env.shared`; one on this machine may be told loopback."""
        config = replace(self._ground.config, http_port=self.http_port)
        try:
            return joining_settings(config, node)
        except StartError:
            return joining_settings(config, node, local=True)

    def _ca_urls(self) -> list[str]:
        """Returns where the CA answers: what nodes announce, then what this host was told when it joined."""
        return list(dict.fromkeys((*_announced(self._replica.registry), *self._ground.config.ca_urls)))

    def _held(self) -> Iterator[Held]:
        config = self._ground.config
        yield from leaf_held(config)
        yield from held_here(config.data_dir / IDENTITY_DIR, config.tls_dir, keeps_ca=keeps_ca(config))

    async def _renewed(self, held: Held, fresh: Identity) -> None:
        """Lets this node speak with its new certificate, once the mesh can look it up."""
        if held.certificate != identity_files(self._ground.config)[0]:
            return
        self._ground.trust.admit(fresh.certificate_der)
        if self._access is not None:
            await self._access.renewed()
        while True:
            try:
                await self._link.show(fresh)
                break
            except LogError as error:
                _log.debug("a renewed certificate is shown later", detail=str(error))
                await self._ground.clock.sleep(_RETRY_S)
        self._author.identity = self._link.identity = fresh
        self.restate()


def _nothing() -> None:
    pass


def _announced(registry: Registry) -> Iterator[str]:
    for node in registry.nodes.values():
        said = node.announced
        if said is not None and said.enrols and said.port and node.status == "alive":
            yield f"https://{f'[{said.host}]' if ':' in said.host else said.host}:{said.port}"
