"""The callers: services on each host that register, update, deregister, and believe what they are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from expectations import Expectations, Key
from host import Agent, Host
from reader import Mesh

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import MeshError, NotOwnerError, ServiceNotFound, StoreError, WriteRefusedError

CALLS: Final = ("register", "repeat", "health", "deregister")
_SERVICES: Final = ("rag", "whisper", "zero")
_IDS: Final = ("1", "2")
_PATIENCE_S: Final = (0.004, 0.1, 1.0)


def services(number: int) -> list[str]:
    """Returns the names of the services of one of a host's callers."""
    return [f"{service}-{number}" for service in _SERVICES]


def ids() -> tuple[str, ...]:
    """Returns the ids that instances have."""
    return _IDS


class Caller:
    """One caller on a host, with services of its own; the next call begins after the last has ended."""

    def __init__(self, mesh: Mesh, host: Host, expectations: Expectations, number: int) -> None:
        self._mesh = mesh
        self._host = host
        self._expectations = expectations
        self._services = services(number)
        self._rng = random.Random(f"{mesh.seed} {host.label} caller {number}")
        self._pause_s = self._rng.uniform(0.7, 7)
        self._value = 0
        self._further = {
            "health_url": "http://127.0.0.1/",
            "deregister_after": mesh.deregister_after_s,
        }

    async def run(self) -> None:
        """Calls for ever."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
            await self._call()

    async def _call(self) -> None:
        rng = self._rng
        key = (rng.choice(self._services), rng.choice(_IDS))
        wait = rng.random() < 0.7
        patience_s = rng.choice(_PATIENCE_S) * rng.random() if rng.random() < 0.15 else None
        kind = rng.choices(CALLS, (6, 1, 2, 3))[0]
        call: Callable[..., Coroutine[Any, Any, str]] = getattr(self, f"_{kind}")
        name = f"{self._host.label} {kind} {'/'.join(key)}"

        async def work(agent: Agent) -> str:
            self._mesh.chronicle.note(f"{name} is asked for{'' if wait else ', no wait'}")
            async with asyncio.timeout(patience_s):
                return await call(agent, key, wait=wait)

        self._mesh.chronicle.happened[kind] += 1
        ended = await self._host.call(work)
        if ended is None:
            return
        if ended.cancelled():
            said = "the agent ended"
        elif isinstance(ended.exception(), TimeoutError):
            said = "given up"
        elif isinstance(ended.exception(), self._expected_now()):
            said = "refused"
        elif (error := ended.exception()) is not None:
            said = ""
            self._mesh.chronicle.violate(f"{name} raised {error!r}")
        else:
            said = ended.result()
        self._mesh.chronicle.note(f"{name}: {said}")

    def _expected_now(self) -> tuple[type[MeshError], ...]:
        """Returns what a caller may have to hear."""
        is_disowned = not self._mesh.law.holds(self._host.identity)
        return (
            *((StoreError,) if self._host.is_stopping else ()),
            *((WriteRefusedError,) if is_disowned else ()),
        )

    async def _register(self, agent: Agent, key: Key, *, wait: bool) -> str:
        self._value += 1
        return await self._registered(agent, key, self._value, wait=wait)

    async def _repeat(self, agent: Agent, key: Key, *, wait: bool) -> str:
        """Registers what is registered already."""
        value = max((value for value in self._expectations.of(key) if value is not None), default=1)
        return await self._registered(agent, key, value, wait=wait)

    async def _registered(self, agent: Agent, key: Key, value: int, *, wait: bool) -> str:
        wanted = Registration(name=key[0], id=key[1], port=value, **self._further)
        speaker, believed_itself = agent.author.identity, self._believes_itself(agent)
        with self._expectations.asked([key], value):
            receipt = await agent.registrations.register(wanted, wait=wait)
        if self._mesh.law.holds(speaker) and believed_itself and self._believes_itself(agent):
            self._check_found(agent, key, value)
        self._check_position(receipt.position)
        return f"{value} at {receipt.position}"

    async def _health(self, agent: Agent, key: Key, *, wait: bool) -> str:
        """States, as the prober does, that an instance's health changed."""
        status = self._rng.choice(("healthy", "unhealthy"))
        instance = InstanceKey(key[0], self._host.name, key[1])
        future = await agent.registrations.state_health(instance, "http://127.0.0.1/", status, "")
        if future is None:
            return "is not there"
        if wait:
            await asyncio.wait((future,), timeout=2)
        return status

    async def _deregister(self, agent: Agent, key: Key, *, wait: bool) -> str:
        service, one = key
        whole = self._rng.random() < 0.3
        keys = [(service, each) for each in _IDS] if whole else [key]
        try:
            with self._expectations.asked(keys, None):
                position = await agent.registrations.deregister(
                    service, node=self._host.name, instance_id=None if whole else one, wait=wait
                )
        except (ServiceNotFound, NotOwnerError):
            for each in keys:
                self._expectations.check(each, None)
            return "was not there"
        self._check_position(position)
        return f"gone at {position}"

    def _believes_itself(self, agent: Agent) -> bool:
        """Returns whether a host's certificate holds by its clock, which may be off by years."""
        signer = agent.replica.verifier.trust.signer(agent.author.identity.fingerprint)
        return signer is not None and (
            signer.not_before_ms <= self._host.clock.now_ms() <= signer.not_after_ms
        )

    def _check_found(self, agent: Agent, key: Key, value: int) -> None:
        """Checks that whoever asks this agent finds what was just registered here."""
        law = self._mesh.law
        if self._host.name in law.cloned or law.begun_anew:
            return  # another host spoke in its name, or it just began anew
        registry = agent.replica.registry
        node = registry.nodes.get(self._host.name)
        held = agent.registrations.held.get(InstanceKey(key[0], self._host.name, key[1]))
        if held is None or not held.durable.is_set():
            return  # it is about to be said again
        if node is not None and node.latest.incarnation > held.stamp.incarnation:
            return  # the mesh knows a later life of this node, and the agent has yet to outlive that one
        entry = registry.entry(InstanceKey(key[0], self._host.name, key[1]))
        if entry is None or entry.record.port != value:
            self._mesh.chronicle.violate(
                f"{self._host.label} does not find {key} as {value} after it said so"
            )

    def _check_position(self, position: int) -> None:
        """Checks that what a caller is told to be in the stream is there."""
        taken = self._mesh.broker.message_ids.get(position, ())
        if position and not any(f".{self._host.name}." in message_id for message_id in taken):
            self._mesh.chronicle.violate(f"{self._host.label}'s event is not at {position}: {taken}")
