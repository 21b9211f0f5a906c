"""The operators: they evict and lift, revoke certificates, and replace the CA, at random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from builders import MESH
from callers import ids, services
from host import Host
from reader import Mesh, Reader
from trust import ROOTS, identity, pem
from virtual_time import SimClock

from pmoves_mesh.agent.operator import Build, evict, revoke, rotate_roots
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import RetiredRoot
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log.memory import Faults

DECREES: Final = ("evict", "revoke", "renew", "rotate")
_TRIES_MAX: Final = 50


class Operators:
    """Decree what only an operator may, over a connection of their own."""

    def __init__(self, mesh: Mesh, hosts: Sequence[Host], usual: Faults) -> None:
        self._mesh = mesh
        self._hosts = hosts
        self._rng = random.Random(f"{mesh.seed} operators")
        self._clock = SimClock()
        self._reader = Reader(mesh, self._clock, self._rng, usual)
        self._revision = 0
        self._rotating = False

    async def evict(self, host: Host) -> None:
        """Evicts a service of a host, or one instance, and perhaps lifts that after a while."""
        service = self._rng.choice(services(self._rng.randrange(2)))
        one = self._rng.choice((None, *ids()))
        await self._decree(evict(service, host.name, one))
        if self._rng.random() < 0.6:
            await asyncio.sleep(self._rng.expovariate(1 / 10))
            await self._decree(evict(service, host.name, one, lifted=True))

    async def revoke(self, host: Host) -> None:
        """Revokes a host's certificate, and gives it another one after a while."""
        await self._decree(revoke([host.identity.fingerprint]))
        await asyncio.sleep(self._rng.expovariate(1 / 10))
        await self.admit(host)

    async def renew(self, host: Host) -> None:
        """Gives a host another certificate while it runs, or before it runs again."""
        await self._renew(host, host.identity.root)

    async def rotate(self, _host: Host) -> None:
        """Replaces the CA: first both hold, then the new one alone, though some may not have followed."""
        law = self._mesh.law
        old, new = law.roots[0], law.roots[0] + 1
        if self._rotating or new >= ROOTS or len(law.roots) > 1:
            return
        self._rotating = True
        try:
            await self._rotate((new, old))
            patience_s = self._clock.monotonic_s() + self._rng.choice((2, 60))
            while self._clock.monotonic_s() < patience_s and any(map(self._is_behind, self._hosts)):
                for host in self._hosts:
                    if self._is_behind(host) and new in host.roots:
                        await self._renew(host, new)
                await asyncio.sleep(self._rng.uniform(0.3, 0.6))
            await self._rotate((new,))
        finally:
            self._rotating = False

    async def admit(self, host: Host) -> None:
        """Lets a host whose identity is not believed join again; mirrors `pmoves-mesh join`."""
        law = self._mesh.law
        speaks = host.identity if host.agent is None else host.agent.author.identity
        if law.holds(host.identity) and law.holds(speaks) and set(law.roots) <= set(host.roots):
            return
        was_up = host.is_up
        if was_up:
            host.crash()
            await host.stopped()
        if host.roots != law.roots:
            law.rejoined.add(host.label)
        host.roots = law.roots
        host.succeed(law.roots[0])
        if was_up and not host.is_up:
            host.start()

    def _is_behind(self, host: Host) -> bool:
        return not host.vanished and host.identity.root != self._mesh.law.roots[0]

    async def _renew(self, host: Host, root: int) -> None:
        if not self._mesh.law.holds(host.identity) or (host.is_up and host.agent is None):
            return  # who is about to start has read which identity it has
        fresh = host.succeed(root)
        if (agent := host.agent) is not None:
            await host.call(lambda _: agent.renewed(fresh, host.clock))

    async def _rotate(self, roots: tuple[int, ...]) -> None:
        law = self._mesh.law
        past = {**law.retired, **{root: 0 for root in law.roots if root not in roots}}
        retired = [RetiredRoot(certificate=pem(root), position=at) for root, at in past.items()]
        await self._decree(rotate_roots([*map(pem, roots)], retired), roots)

    async def _decree(self, build: Build, roots: tuple[int, ...] = ()) -> None:
        """Publishes a decree until the log has it; mirrors `operator.decree`.

        Whoever makes a rotation known looks whether it is, before doing so again.
        """
        law = self._mesh.law
        root = roots[0] if roots and roots[0] in law.roots else law.roots[-1]
        signer = identity("root", root, kind="operator")
        law.identities[signer.fingerprint] = signer
        self._revision += 1
        now_ms = self._clock.now_ms()
        event = build({"mesh": MESH, "node": "root", "incarnation": now_ms, "revision": 1, "prev": ""})
        name = f"{envelope.stamped_id(event)}.{self._revision}"
        sealed = envelope.seal(event, signer, message_id=name)
        for _ in range(_TRIES_MAX):
            try:
                await self._reader.follower.show(signer)
                await self._reader.log.publish(sealed)
            except LogUnavailable:
                await asyncio.sleep(self._rng.uniform(0.1, 0.5))
            else:
                return
            if roots == law.roots:
                return
