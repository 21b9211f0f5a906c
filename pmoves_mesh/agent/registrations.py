"""This node's own registrations: what its services asked for, durable before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from pmoves_mesh.agent import kept
from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.core import query
from pmoves_mesh.core.check import COMMAND_SETTING, Check, CommandCheck, check_made
from pmoves_mesh.core.event import (
    Event,
    InstanceDeregistered,
    InstanceHealthChanged,
    InstanceRegistered,
    InstanceUnregistered,
    InstanceUpdated,
    Stated,
)
from pmoves_mesh.core.limits import allows
from pmoves_mesh.core.model import INSTANCES_PER_NODE_MAX, Instance, InstanceKey, Stamp
from pmoves_mesh.core.names import HealthStatus, Host, Mode, parse_label
from pmoves_mesh.core.registration import Registration, check_of, instance_id, instance_of, is_same
from pmoves_mesh.errors import (
    CapacityError,
    InvalidFieldError,
    NotOwnerError,
    ReplicaBehindError,
    ServiceForbiddenError,
    ServiceNotFound,
    StoreError,
    WriteRefusedError,
)
from pmoves_mesh.ports import Clock, EventLog, Receipt
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.records import StoredRegistration

_log: Final = structlog.get_logger(__name__)

_SHOWN_S: Final = 5.0
_LOOK_S: Final = 0.02
_ACKNOWLEDGED_S: Final = 2.0
_APPLIED_S: Final = 2.0


@dataclass(slots=True, eq=False)
class Held:
    """An instance of this node.

    Attributes:
        stamp: of the event that stated it last.
        check: the one that was asked for; None if none was.
        durable: set once that event is in the store.
    """

    record: Instance
    stamp: Stamp
    check: Check | None = None
    durable: asyncio.Event = field(default_factory=asyncio.Event)


class Registrations:
    """Implements `ports.Registrar` for this node.

    Attributes:
        held: every instance of this node, by key.
        changed: set whenever `held` changes; whoever waits for it clears it.
        command_checks: whether a check may run a command.
        marked: returns a record with its maintenance as it has to be now.
    """

    def __init__(
        self, author: Author, replica: Replica, log: EventLog, clock: Clock, *, host: Host, mode: Mode
    ) -> None:
        self.held: Final[dict[InstanceKey, Held]] = {}
        self.changed: Final = asyncio.Event()
        self.host = host
        self.command_checks = False
        self.marked: Callable[[Instance], Instance] = lambda record: record
        self._mode: Mode = mode
        self._author = author
        self._replica = replica
        self._log = log
        self._clock = clock
        self._watchers: Final[set[Callable[[InstanceKey], None]]] = set()

    @contextmanager
    def watched(self, notice: Callable[[InstanceKey], None]) -> Iterator[None]:
        """Calls `notice` with the key of each instance that changes in `held`, while the context lasts.

        It is called in the midst of the change, so it must neither wait nor raise.
        """
        self._watchers.add(notice)
        try:
            yield
        finally:
            self._watchers.discard(notice)

    def restore(self, stored: Sequence[StoredRegistration]) -> None:
        """Takes up what an earlier run of this agent had registered."""
        for one in stored:
            record, check = kept.unpack(one.record)
            held = Held(record=record, stamp=Stamp(one.incarnation, one.revision), check=check)
            held.durable.set()
            self.held[record.key] = held

    async def register(self, wanted: Registration, *, wait: bool = True) -> Receipt:
        """Registers or updates an instance on this node; see `ports.Registrar`."""
        node = self._author.node
        self._check_allowed(parse_label(wanted.name, "name"))
        key = InstanceKey(parse_label(wanted.name, "name"), node, instance_id(wanted, self.host))
        held = await self.durable(key)
        now = query.iso(self._clock.now_ms())
        before = held.record if held else None
        record = instance_of(
            wanted, node=node, node_host=self.host, node_mode=self._mode, held=before, now=now
        )
        check, record = check_of(wanted, record, held=before, held_check=held.check if held else None)
        if isinstance(wanted.check, CommandCheck) and not self.command_checks:
            raise InvalidFieldError("check.type", f"commands are run only where {COMMAND_SETTING}=1 is set")
        record = self.marked(record)
        entry = self._replica.registry.entry(key)
        if (
            held is not None
            and entry is not None
            and entry.stamp == held.stamp
            and is_same(held.record, record)
            and held.check == check
        ):
            return Receipt(instance=held.record, position=entry.position)
        if held is None and len(self.held) >= INSTANCES_PER_NODE_MAX:
            raise CapacityError("instances on one node", INSTANCES_PER_NODE_MAX)
        future = await self.state(record, InstanceUpdated if held else InstanceRegistered, check=check)
        position = await self.settled(future, wait=wait)
        await self._shown(key)
        return Receipt(instance=record, position=position)

    async def _shown(self, key: InstanceKey) -> None:
        """Waits until what is held is found here too: another run with this identity may contradict it.

        It is stated again when this node's announcer hears of that.
        """
        if self._replica.registry.entry(key) is not None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHOWN_S):
                while key in self.held and self._replica.registry.entry(key) is None:
                    await self._clock.sleep(_LOOK_S)

    def _check_allowed(self, service: str) -> None:
        """Checks that this node's certificate allows a service; elsewhere nobody would believe it."""
        fingerprint = self._author.identity.fingerprint
        if fingerprint in self._replica.registry.revoked:
            raise WriteRefusedError(
                "this node's certificate was revoked: join the mesh anew", token_helps=False
            )
        signer = self._replica.verifier.trust.signer(fingerprint)
        if signer is not None and not allows(signer.allow, service):
            raise ServiceForbiddenError(service, signer.allow)

    async def drop_forbidden(self) -> None:
        """Removes what this node's certificate no longer allows: nobody would believe its announcements.

        Raises:
            StoreError: if it cannot be made durable.
        """
        for key in tuple(self.held):
            try:
                self._check_allowed(key.service)
            except WriteRefusedError:
                return  # whatever it says, nobody believes it
            except ServiceForbiddenError as error:
                _log.warning("a registration is no longer allowed", detail=str(error))
                await self._remove(key)

    async def deregister(
        self, service: str, *, node: str | None = None, instance_id: str | None = None, wait: bool = True
    ) -> int:
        """Removes instances of a service from this node; see `ports.Registrar`."""
        futures = []
        for key in self.own(service, node=node, instance_id=instance_id):
            await self.durable(key)
            if key in self.held:
                futures.append(await self._remove(key))
        positions = [await self.settled(future, wait=wait) for future in futures]
        return max(positions, default=0)

    def own(
        self, service: str, *, node: str | None = None, instance_id: str | None = None
    ) -> list[InstanceKey]:
        """Returns this node's instances of a service, at least one.

        Raises:
            ServiceNotFound: if there is no such instance anywhere.
            NotOwnerError: if there is, but only on other nodes.
        """
        service = parse_label(service, "name")
        own = self._author.node
        found = [
            key
            for key in self.held
            if key.service == service and node in {None, own} and instance_id in {None, key.id}
        ]
        if not found:
            self._refuse(service, node, instance_id)
        return found

    async def state_health(
        self, key: InstanceKey, made: Check, status: HealthStatus, output: str
    ) -> asyncio.Future[int] | None:
        """States that an instance's health changed; the rest of its record stays what its owner said.

        Returns None, and states nothing, if the instance is gone by now, or another check is made of it.

        Raises:
            StoreError: if it cannot be made durable.
            CapacityError: if the outbox is full.
        """
        held = await self.durable(key)
        if held is None or check_made(held.check, held.record) != made:
            return None
        record = msgspec.structs.replace(
            held.record,
            health_status=status,
            health_output=output,
            last_seen=query.iso(self._clock.now_ms()),
        )
        return await self.state(record, InstanceHealthChanged)

    async def state(
        self, record: Instance, kind: type[Stated], *, check: Check | UnsetType | None = UNSET
    ) -> asyncio.Future[int]:
        """States a record of this node, and holds it.

        Args:
            record: the whole record.
            kind: what happened to it.
            check: the one that is asked for; left out, it stays what it was.

        Raises:
            StoreError: if it cannot be made durable; what was held before is held again.
        """
        before = self.held.get(record.key)
        if check is UNSET:
            check = before.check if before else None
        place = self._author.place()
        held = Held(record=record, stamp=Stamp(place["incarnation"], place["revision"]), check=check)
        self.held[record.key] = held
        self._notify(record.key)
        stored = StoredRegistration(
            service=record.name,
            id=record.id,
            record=kept.pack(record, check),
            incarnation=held.stamp.incarnation,
            revision=held.stamp.revision,
        )

        def build(at: Place) -> tuple[Event, ...]:
            return (kind(**at, service=record.name, data=record),)

        try:
            future = await self._author.state(build, upsert=stored)
        except (StoreError, CapacityError):
            if self.held.get(record.key) is held:
                del self.held[record.key]
                if before is not None:
                    self.held[record.key] = before
                self._notify(record.key)
            raise
        finally:
            held.durable.set()
            self.changed.set()
        return future

    async def restate(self, key: InstanceKey) -> bool:
        """States an instance again as it is held, if it is and nothing is on its way; returns whether it did.

        Raises:
            StoreError: if it cannot be made durable.
            CapacityError: if the outbox is full.
        """
        held = self.held.get(key)
        if held is None or not held.durable.is_set():
            return False
        await self.state(held.record, InstanceUpdated)
        return True

    async def _remove(self, key: InstanceKey) -> asyncio.Future[int]:
        held = self.held.pop(key)
        self._notify(key)
        now = query.iso(self._clock.now_ms())
        record = msgspec.structs.replace(held.record, last_seen=now)

        def build(at: Place) -> tuple[Event, ...]:
            said = {**at, "service": key.service, "data": record}
            return InstanceDeregistered(**said), InstanceUnregistered(**said)

        try:
            future = await self._author.state(build, delete=key)
        except (StoreError, CapacityError):
            self.held.setdefault(key, held)
            self._notify(key)
            raise
        finally:
            self.changed.set()
        return future

    def _notify(self, key: InstanceKey) -> None:
        for notice in self._watchers:
            notice(key)

    async def durable(self, key: InstanceKey) -> Held | None:
        """Returns what is held of an instance, once the event that stated it is in the store or failed."""
        while (held := self.held.get(key)) is not None and not held.durable.is_set():
            await held.durable.wait()
        return held

    def _refuse(self, service: str, node: str | None, instance_id: str | None) -> None:
        """Raises what explains why there is nothing here to remove."""
        elsewhere = {
            entry.record.node
            for entry in self._replica.registry.of_service(service)
            if node in {None, entry.record.node} and instance_id in {None, entry.record.id}
        } - {self._author.node}
        if elsewhere:
            raise NotOwnerError(service, tuple(sorted(elsewhere)))
        raise ServiceNotFound(service)

    async def settled(self, future: asyncio.Future[int], *, wait: bool) -> int:
        """Returns the event's position once it is in the stream and folded in here; 0 if it still waits."""
        if not wait or not self._log.connected:
            return future.result() if future.done() else 0
        done, _ = await asyncio.wait((future,), timeout=_ACKNOWLEDGED_S)
        if not done:
            return 0
        try:
            await self._replica.wait_position(future.result(), _APPLIED_S)
        except ReplicaBehindError:
            return 0
        return future.result()
