"""Maintenance: what this node hides from discovery, by an operator's wish, without deregistering it.

There is a mark for the node, one for each service, and one for each instance; an instance is in
maintenance while any of its three is set. Marks outlive registrations: a service that deregisters
and comes back, as one does that is restarted, is still in maintenance. They are kept in a file of
their own, since they are there before and after any record that shows them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import Meta, Struct

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.event import InstanceMaintained
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.names import Label, parse_label
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import CapacityError, MeshError, NodeNotFound, NotOwnerError, PkiError, StoreError
from pmoves_mesh.pki.files import write_whole
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

MAINTENANCE_FILE: Final = "maintenance.json"
MARKS_MAX: Final = 10_000

_EVERY: Final = ""
"""Stands for every instance of a service, in the place of an id."""

_FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_AT_ONCE: Final = 256
_RETRY_S: Final = 1.0


class Marks(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why what is in maintenance.

    Attributes:
        node: why the whole node is; None if it is not.
        services: for each service, the reason by instance id, and by the empty text for all of them.
    """

    node: Annotated[str, Meta(max_length=1024)] | None = None
    services: dict[Label, dict[str, Annotated[str, Meta(max_length=1024)]]] = {}

    def reason(self, record: Instance) -> str | None:
        """Returns why an instance is in maintenance, by the closest mark; None if it is not."""
        marks = self.services.get(record.name, {})
        found = (marks.get(record.id), marks.get(_EVERY), self.node)
        return next((reason for reason in found if reason is not None), None)

    def changed(self, service: str, instance_id: str | None, reason: str | None) -> Marks:
        """Returns the marks with that of a service or an instance set, or lifted if the reason is None."""
        marks = {**self.services.get(service, {}), instance_id or _EVERY: reason}
        left = {place: why for place, why in marks.items() if why is not None}
        services = {**self.services, service: left}
        return Marks(node=self.node, services={name: of for name, of in services.items() if of})


class Maintenance:
    """Implements `ports.Maintainer` for this node."""

    def __init__(
        self, path: Path, node: str, registrations: Registrations, replica: Replica, clock: Clock
    ) -> None:
        """Takes where the marks are kept, and whose they are."""
        self._path = path
        self._node = node
        self._registrations = registrations
        self._replica = replica
        self._clock = clock
        self._marks = Marks()
        self._turn = asyncio.Lock()
        self._uneven = asyncio.Event()

    @property
    def node_reason(self) -> str | None:
        """Why this whole node is in maintenance; see `ports.Maintainer`."""
        return self._marks.node

    async def load(self) -> None:
        """Reads the marks. Without a readable file, whatever is in maintenance stays so, each by itself.

        Raises:
            StoreError: if the file cannot be read.
        """
        self._marks = await asyncio.to_thread(self._read)
        self._registrations.marked = self.marked
        self._uneven.set()

    def marked(self, record: Instance) -> Instance:
        """Returns a record with its maintenance as the marks say."""
        reason = self._marks.reason(record)
        return msgspec.structs.replace(
            record, maintenance=reason is not None, maintenance_reason=reason or ""
        )

    async def maintain(
        self, service: str, reason: str | None, *, instance_id: str | None = None, wait: bool = True
    ) -> tuple[Sequence[InstanceKey], int | None]:
        """Sets or lifts the mark of a service or an instance; see `ports.Maintainer`."""
        service = parse_label(service, "name")
        async with self._turn:
            if (instance_id or _EVERY) not in self._marks.services.get(service, {}):
                self._registrations.own(service, instance_id=instance_id)  # or it is none of ours
            await self._set(self._marks.changed(service, instance_id, reason))
        held = self._registrations.held
        keys = [key for key in held if key.service == service and instance_id in {None, key.id}]
        return keys, await self._show(keys, wait=wait)

    async def maintain_node(
        self, node: str, reason: str | None, *, wait: bool = True
    ) -> tuple[Sequence[InstanceKey], int | None]:
        """Sets or lifts the mark of this node; see `ports.Maintainer`."""
        name = parse_label(node, "node")
        if name != self._node:
            if name not in self._replica.registry.nodes:
                raise NodeNotFound(name)
            raise NotOwnerError("", (name,))
        async with self._turn:
            await self._set(msgspec.structs.replace(self._marks, node=reason))
        keys = tuple(self._registrations.held)
        return keys, await self._show(keys, wait=wait)

    async def run(self) -> None:
        """States, for ever, what the records do not show yet: after a start, or when the disk was full."""
        while True:
            await self._uneven.wait()
            self._uneven.clear()
            try:
                await self._state(self._registrations.held)
            except MeshError as error:
                _log.warning("maintenance is not stated yet", detail=str(error))
                self._uneven.set()
                await self._clock.sleep(_RETRY_S)

    async def _show(self, keys: Iterable[InstanceKey], *, wait: bool) -> int | None:
        """States what the marks changed of some instances; returns as `ports.Maintainer` says."""
        self._uneven.set()  # if this is given up halfway, `run` goes on with it
        futures = await self._state(keys)
        if not futures:
            return None
        return max([await self._registrations.settled(future, wait=wait) for future in futures])

    async def _state(self, keys: Iterable[InstanceKey]) -> list[asyncio.Future[int]]:
        pending = list(keys)
        futures: list[asyncio.Future[int]] = []
        for start in range(0, len(pending), _AT_ONCE):
            # Many share one wait for the disk.
            some = await asyncio.gather(*map(self._state_one, pending[start : start + _AT_ONCE]))
            futures += filter(None, some)
        return futures

    async def _state_one(self, key: InstanceKey) -> asyncio.Future[int] | None:
        held = await self._registrations.durable(key)
        if held is None or (record := self.marked(held.record)) == held.record:
            return None
        now = iso(self._clock.now_ms())
        record = msgspec.structs.replace(record, last_seen=now)
        return await self._registrations.state(record, InstanceMaintained)

    # The file

    async def _set(self, marks: Marks) -> None:
        if sum(map(len, marks.services.values())) > MARKS_MAX:
            raise CapacityError("marks of maintenance", MARKS_MAX)
        data = msgspec.json.encode(marks)
        try:
            await asyncio.to_thread(write_whole, self._path, data, mode=0o600)
        except PkiError as error:
            raise StoreError(str(self._path), str(error)) from None
        self._marks = marks

    def _read(self) -> Marks:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=Marks)
        except FileNotFoundError:
            return self._shown()
        except OSError as error:
            raise StoreError(str(self._path), error.strerror or "cannot be read") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            aside = self._path.with_suffix(".damaged")
            _log.warning("the marks of maintenance are damaged, and set aside", path=str(aside))
            self._path.replace(aside)
            return self._shown()

    def _shown(self) -> Marks:
        """Returns the marks that the records show."""
        services: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for key, held in self._registrations.held.items():
            if held.record.maintenance:
                services[key.service][key.id] = held.record.maintenance_reason
        return Marks(services=services)
