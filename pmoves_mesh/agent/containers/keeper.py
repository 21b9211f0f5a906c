"""Makes this node's registrations those of the containers that run: what is missing comes, the rest goes.

Only one task calls it, so that a container that leaves is never registered again by what was seen of
it before.
"""

from __future__ import annotations

from typing import Final

import structlog

from pmoves_mesh.agent.containers.claims import Claim, Claims, is_marked
from pmoves_mesh.agent.containers.inspected import Container, judge
from pmoves_mesh.agent.containers.labels import NAME_LABEL, Here, Wanted, is_as_wanted, wanted_by
from pmoves_mesh.agent.containers.processes import is_alive
from pmoves_mesh.agent.containers.tally import Tally
from pmoves_mesh.agent.registrations import Held, Registrations
from pmoves_mesh.core.check import DockerCheck
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import HealthStatus, Mode
from pmoves_mesh.errors import InvalidFieldError, MeshError, NotFoundError, StoreError

_log: Final = structlog.get_logger(__name__)

_STATUS: Final[dict[bool | None, HealthStatus]] = {True: "healthy", False: "unhealthy", None: "unknown"}


class Keeper:
    """The containers of this host that are labelled and run, and their registrations.

    Attributes:
        containers: by id.
    """

    def __init__(
        self, node: str, mode: Mode, registrations: Registrations, claims: Claims, tally: Tally
    ) -> None:
        """Takes where containers are registered, and where it is kept which ones are.

        Args:
            node: this node.
            mode: that of containers that ask for none.
            registrations: this node's.
            claims: which of them are those of containers.
            tally: takes note of what goes wrong.
        """
        self.containers: Final[dict[str, Container]] = {}
        self._asked: dict[str, Wanted] = {}
        self._processes: dict[str, int] = {}
        self._node = node
        self._registrations = registrations
        self._claims = claims
        self._tally = tally
        self._here = Here(registrations.host, mode)
        self._places: dict[Claim, str] = {}

    # What is seen

    def see(self, container: Container, network: Container) -> None:
        """Takes note of a container as it is now.

        Args:
            container: any container.
            network: the one in whose network it is; itself, but for one that shares another's.
        """
        if NAME_LABEL not in container.labels or not container.serves:
            self.miss(container.id)
            return
        self.containers[container.id] = container
        self._asked.pop(container.id, None)
        self._processes.pop(container.id, None)
        if is_alive(container.state.pid):  # else this agent has process ids of its own
            self._processes[container.id] = container.state.pid
        try:
            self._asked[container.id] = wanted_by(container, network, self._here)
        except InvalidFieldError as error:
            self._tally.complain(container, "label", str(error))

    def miss(self, container: str) -> None:
        """Takes note that there is no such container."""
        self.containers.pop(container, None)
        self._asked.pop(container, None)
        self._processes.pop(container, None)
        self._tally.content(container)

    def miss_all_but(self, containers: frozenset[str]) -> None:
        """Takes note that there are no others."""
        for gone in self.containers.keys() - containers:
            self.miss(gone)
        self._tally.forget_all_but(containers)

    def sharing(self, container: Container) -> list[Container]:
        """Returns those that are in a container's network."""
        names = {container.id, container.plain_name}
        return [one for one in self.containers.values() if one.shares_network_of in names]

    # What follows

    async def settle(self) -> None:
        """Registers, updates and deregisters until the registrations are those of the containers seen.

        What does not succeed is said once, and tried again at the next call.
        """
        wanted = self._wanted()
        mine = {claim for claim in wanted if not self._is_strangers(claim)}
        for claim in wanted.keys() - mine:
            problem = f"service {claim[0]}, id {claim[1]} is registered here by somebody else"
            self._tally.complain(wanted[claim][0], "taken", problem)
        try:
            await self._claims.keep(self._claims.held | mine)
        except StoreError as error:
            _log.warning("containers are not registered now", detail=str(error))
            mine &= self._claims.held
        for claim in sorted(mine):
            await self._register(claim, *wanted[claim])
        await self._release(self._claims.held - wanted.keys())
        self._tally.registered(sum(self._own(claim) is not None for claim in self._claims.held))

    async def release_all(self) -> None:
        """Deregisters every container."""
        self.miss_all_but(frozenset())
        await self._release(self._claims.held)

    async def release_unseen(self, away_s: float) -> None:
        """Deregisters those that ended without their engine, and in time those that may have.

        Args:
            away_s: seconds since the engine was last heard.
        """
        for container, pid in tuple(self._processes.items()):
            if not is_alive(pid):
                self.miss(container)
        ended = {claim for claim, container in self._places.items() if container not in self.containers}
        overdue = {
            claim
            for claim in self._claims.held
            if (held := self._own(claim)) is not None
            and held.record.health_status != "healthy"
            and held.record.deregister_after <= away_s
        }
        await self._release(frozenset(ended | overdue))

    def _wanted(self) -> dict[Claim, tuple[Container, Wanted]]:
        """Returns what each container asks for; of two that ask for the same, who has it keeps it."""
        found: dict[Claim, tuple[Container, Wanted]] = {}
        placed = frozenset(self._places.values())
        for container_id in sorted(self._asked, key=lambda one: (one not in placed, one)):
            container, wanted = self.containers[container_id], self._asked[container_id]
            claim = (wanted.service, wanted.id)
            first, _ = found.setdefault(claim, (container, wanted))
            if first is not container:
                problem = f"service {claim[0]}, id {claim[1]} is container {first.plain_name}"
                self._tally.complain(container, "taken", problem)
        return found

    def _held(self, claim: Claim) -> Held | None:
        service, instance_id = claim
        return self._registrations.held.get(InstanceKey(service, self._node, instance_id))

    def _own(self, claim: Claim) -> Held | None:
        """Returns what is registered of a claim, unless somebody else did."""
        held = self._held(claim)
        return held if held is not None and claim in self._claims.held and is_marked(held.record) else None

    def _is_strangers(self, claim: Claim) -> bool:
        return self._held(claim) is not None and self._own(claim) is None

    async def _register(self, claim: Claim, container: Container, wanted: Wanted) -> None:
        try:
            held = self._held(claim)
            if held is None or not is_as_wanted(held.record, held.check, wanted.registration):
                await self._registrations.register(wanted.registration, wait=False)
                _log.info(
                    "container registered", container=container.plain_name, service=claim[0], id=claim[1]
                )
            self._places[claim] = container.id
            await self._state_health(claim, container)
        except InvalidFieldError as error:
            self._tally.complain(container, "label", str(error))
        except MeshError as error:
            self._tally.complain(container, "refused", str(error))
        else:
            self._say_what_is_unknown(container, wanted)

    async def _state_health(self, claim: Claim, container: Container) -> None:
        """States the engine's own word at once; the check that is made of it repeats it."""
        held = self._held(claim)
        if held is None or not isinstance(held.check, DockerCheck):
            return
        finding = judge(container.state)
        status = _STATUS[finding.passed]
        if held.record.health_status != status:
            await self._registrations.state_health(held.record.key, held.check, status, finding.output)

    def _say_what_is_unknown(self, container: Container, wanted: Wanted) -> None:
        if wanted.unknown:
            self._tally.complain(container, "unknown_label", ", ".join(wanted.unknown))
        else:
            self._tally.content(container.id)

    async def _release(self, claims: frozenset[Claim]) -> None:
        """Deregisters what is a container's, and gives up every claim of which nothing is left."""
        gone = set()
        for claim in sorted(claims):
            service, instance_id = claim
            try:
                if self._own(claim) is not None:
                    await self._registrations.deregister(
                        service, node=self._node, instance_id=instance_id, wait=False
                    )
                    _log.info("container deregistered", service=service, id=instance_id)
            except NotFoundError:
                pass
            except MeshError as error:
                _log.warning("container not deregistered", service=service, id=instance_id, detail=str(error))
                continue
            self._places.pop(claim, None)
            gone.add(claim)
        try:
            await self._claims.keep(self._claims.held - gone)
        except StoreError as error:
            _log.warning("the list of containers is not written", detail=str(error))
