"""The announcer: says who and where this node is, and mends whatever the mesh holds otherwise."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Final

import msgspec
import structlog

from pmoves_mesh import __version__
from pmoves_mesh.agent.address import TAILSCALE
from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.agent.trust.trusted import keeps_ca
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import (
    MANIFEST_ENTRIES_MAX,
    NodeAnnounced,
    NodeLeft,
)
from pmoves_mesh.core.model import NEVER, InstanceKey, ManifestEntry, Stamp
from pmoves_mesh.core.names import CAPABILITIES_MAX
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.resources import Resources, capabilities_of, described
from pmoves_mesh.core.witness import announce_interval_s, first_share, repeat_interval_s
from pmoves_mesh.errors import CapacityError, LogError, StoreError
from pmoves_mesh.ports import Clock, EventLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.subscribers import Applied
from pmoves_mesh.tailscale.comparison import is_tailscale

_log: Final = structlog.get_logger(__name__)

_SERVICES_SHOWN_MAX: Final = 1000
_START_S: Final = 2.0
_MANIFEST_BYTES_MAX: Final = 160 * 1024
_PAUSE_S: Final = 0.5


class Announcer:
    """Announces this node: at its start, after a change, and again and again.

    A repetition has the stamp of what it repeats and a time to live, so it leaves no trace in
    the stream. It lets every replica see that it has what this node holds.

    Attributes:
        resources: what this host has; whoever changes it calls `restate`.
        addresses: of this node, by network, where there are several.
    """

    def __init__(
        self,
        config: Config,
        author: Author,
        registrations: Registrations,
        replica: Replica,
        log: EventLog,
        clock: Clock,
    ) -> None:
        self.resources = Resources()
        self._config = config
        self._author = author
        self._registrations = registrations
        self._replica = replica
        self._log = log
        self._clock = clock
        self._latest: NodeAnnounced | None = None
        self._said: asyncio.Future[int] | None = None
        self._said_s = 0.0
        self._share = 1.0
        self._repeats = 0
        self._contradicted = asyncio.Event()
        self.addresses: dict[str, str] = {}

    async def announce(self) -> asyncio.Future[int]:
        """States a new announcement; the future gives its position in the stream."""
        self._registrations.changed.clear()

        def build(place: Place) -> tuple[NodeAnnounced, ...]:
            self._latest = self._announcement(place)
            return (self._latest,)

        self._said = await self._author.state(build)
        self._said_s, self._share = self._clock.monotonic_s(), first_share(self._author.node)
        return self._said

    def restate(self) -> None:
        """Makes it announce soon, though nothing that it says has changed, as with a new certificate."""
        self._registrations.changed.set()
        self._contradicted.set()

    async def leave(self, reason: str) -> asyncio.Future[int]:
        """States that this node leaves on purpose, which is its last word; the future gives its position."""
        return await self._author.finish(lambda place: (NodeLeft(**place, reason=reason),))

    async def run(self) -> None:
        """Announces for ever, and at once when the mesh says of this node what is not so."""
        await self._spared(self.announce())
        await self._replica.wait_current(_START_S)
        await self._spared(self._mend())
        with self._replica.subscribed(self._notice, self._heed):
            while True:
                await self._wait(self._pause_s())
                await self._spared(self._take_turn())

    async def _mend(self) -> None:
        await self._reconcile()
        if self._registrations.changed.is_set():
            await self.announce()

    async def _take_turn(self) -> None:
        if self._replica.is_current:
            await self._reconcile()
        if self._registrations.changed.is_set() or self._is_contradicted():
            await self.announce()
        elif self._repeats_in_s() <= 0:
            await self._repeat()

    async def _spared(self, turn: Awaitable[object]) -> None:
        """Lets a full disk or a full outbox cost a turn, and not the agent."""
        try:
            await turn
        except (StoreError, CapacityError) as error:
            self._registrations.changed.set()
            _log.warning("not announced", detail=str(error))

    def _notice(self, applied: Applied) -> None:
        change, own = applied.change, self._author.node
        concerned = own in change.nodes or any(key.node == own for key in change.instances)
        if concerned:
            self._heed()

    def _heed(self) -> None:
        if self._is_contradicted():
            self._contradicted.set()

    def _is_contradicted(self) -> bool:
        """Returns whether the mesh holds this node for lost, left, robbed, or someone it no longer is."""
        node = self._replica.registry.nodes.get(self._author.node)
        if node is None:
            return False
        return node.status != "alive" or bool(node.expired) or node.latest > self._author.stamp

    async def _wait(self, seconds: float) -> None:
        """Waits for the next announcement's time; a contradiction ends the wait, after a moment at least.

        The moment keeps two agents that both take themselves for this node from shouting each
        other down.
        """
        await self._clock.sleep(min(_PAUSE_S, seconds))
        try:
            async with asyncio.timeout(seconds):
                await self._contradicted.wait()
        except TimeoutError:
            return
        finally:
            self._contradicted.clear()

    def _pause_s(self) -> float:
        """Returns how long to wait: for the next repetition, or until what may have changed is announced."""
        repeats_in_s = self._repeats_in_s()
        interval_s = announce_interval_s(self._config.announce_s, len(self._replica.registry.nodes))
        # What is due and cannot be said now, since there is no log, is tried again in the next turn.
        return min(interval_s, repeats_in_s) if repeats_in_s > 0 else interval_s

    def _repeats_in_s(self) -> float:
        return self._said_s + self._share * self._repeat_interval_s() - self._clock.monotonic_s()

    def _repeat_interval_s(self) -> float:
        """Returns the pause between repetitions; only who lives makes any."""
        living = sum(node.status == "alive" for node in self._replica.registry.nodes.values())
        return repeat_interval_s(self._config.announce_s, living)

    async def _reconcile(self) -> None:
        """States again what the stream no longer knows of this node, under a later incarnation if need be."""
        if not self._is_believed():
            return  # it would say the same again and again, and nobody would take it
        node = self._replica.registry.nodes.get(self._author.node)
        said = (node.latest, node.lost, *node.expired.values()) if node is not None else (NEVER,)
        if (known := max(said)) > self._author.stamp:
            _log.warning("the mesh knows a later incarnation of this node; taking a later one still")
            await self._author.begin(above=known.incarnation)
            self._registrations.changed.set()
        for key in tuple(self._registrations.held):
            # Each is looked up anew: while one is stated, another may have been removed.
            held = self._registrations.held.get(key)
            if held is not None and not self._is_known(key, held.stamp):
                self._replica.repairs["restated"] += await self._registrations.restate(key)

    def _is_believed(self) -> bool:
        """Returns whether the mesh believes what this node signs now."""
        fingerprint = self._author.identity.fingerprint
        trust = self._replica.verifier.trust
        signer = trust.signer(fingerprint)
        if fingerprint in self._replica.registry.revoked:
            return False
        return signer is not None and trust.holds(signer.root, 0)

    def _is_known(self, key: InstanceKey, stamp: Stamp) -> bool:
        """Returns whether the mesh holds an instance as this node stated it last, and believes it."""
        entry = self._replica.registry.entry(key)
        # A later entry is one of a life before the disk was lost and the clock set back.
        if entry is None or entry.stamp != stamp:
            return False
        node = self._replica.registry.nodes[key.node]
        if entry.position == 0 < node.position and stamp < node.announced_stamp:
            # The stream has what was said after it: so it was refused there, as what an identity signed
            # in its time is that arrives too late.
            return False
        # What an earlier identity of this node signed is worth nothing once that was revoked.
        return entry.fingerprint not in self._replica.registry.revoked

    async def _repeat(self) -> None:
        # A repetition that is in the stream before what it repeats would count as the first copy.
        if self._latest is None or self._said is None or not self._said.done() or not self._log.connected:
            return
        self._repeats += 1
        now_ms = self._clock.now_ms()
        again = msgspec.structs.replace(self._latest, ts=now_ms / 1000, timestamp=iso(now_ms))
        stamp = again.stamp
        message_id = f"{again.type}.{again.node}.{stamp.incarnation}.{stamp.revision}.{self._repeats}"
        sealed = envelope.seal(again, self._author.identity, message_id=message_id)
        try:
            await self._log.publish(sealed, ttl_s=max(1, math.ceil(2 * self._repeat_interval_s())))
            self._said_s, self._share = self._clock.monotonic_s(), 1.0
        except LogError as error:
            _log.debug("announcement not repeated", detail=str(error))

    def _announcement(self, place: Place) -> NodeAnnounced:
        config, held = self._config, self._registrations.held
        services = dict.fromkeys(key.service for key in held)
        # What is set comes first, so that it is never what is too much.
        can = dict.fromkeys((*config.capabilities, *capabilities_of(self.resources)))
        capabilities = tuple(can)[:CAPABILITIES_MAX]
        return NodeAnnounced(
            **place,
            instances=self._manifest(place["incarnation"]),
            node_id=config.node,
            hostname=config.node,
            host=self._registrations.host,
            addresses=self.addresses,
            tailscale_ip=self._tailscale_ip,
            port=config.http_port,
            mode=config.mode,
            caps=dict.fromkeys(capabilities, True),
            capabilities=capabilities,
            services_running=tuple(services)[:_SERVICES_SHOWN_MAX],
            ts=self._clock.now_ms() / 1000,
            version=__version__,
            resources=described(self.resources),
            enrols=keeps_ca(config) and not is_loopback(config.http_host),
        )

    @property
    def _tailscale_ip(self) -> str | None:
        host = self._registrations.host
        return self.addresses.get(TAILSCALE) or (host if is_tailscale(host) else None)

    def _manifest(self, incarnation: int) -> tuple[ManifestEntry, ...] | None:
        """Returns a line for each instance, or None if that would outgrow an event."""
        if len(self._registrations.held) > MANIFEST_ENTRIES_MAX:
            return None
        lines = tuple(
            ManifestEntry(
                name=key.service,
                id=key.id,
                revision=held.stamp.revision,
                incarnation=None if held.stamp.incarnation == incarnation else held.stamp.incarnation,
            )
            for key, held in self._registrations.held.items()
        )
        return lines if len(msgspec.json.encode(lines)) <= _MANIFEST_BYTES_MAX else None
