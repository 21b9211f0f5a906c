"""The lease keeper: holds this node's name while the agent runs, and finds whoever else does.

`core.lease` has the rules; here are the key, the time and the faults.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from pmoves_mesh.core import lease
from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.lease import Claim, Decision, Lease, Look
from pmoves_mesh.core.load import Load
from pmoves_mesh.errors import IdentityCloned, LogError, LogUnavailable, RemoteProtocolError, SequenceConflict
from pmoves_mesh.ports import Bucket, BucketEntry, Clock
from pmoves_mesh.verifier import Verifier

_log: Final = structlog.get_logger(__name__)
_random: Final = secrets.SystemRandom()

_REFRESHES_PER_TTL: Final = 3
_LOOKS_PER_TTL: Final = 10
"""After it took the name from another, and while it does not hold it, a run looks more often: it may
have to stop, and until then both speak as one node."""

_JITTER: Final = 0.1
_CONTESTS_MAX: Final = 5
_RELEASE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Cargo:
    """What a lease carries besides the proof of life, for whoever reads it: it costs no message.

    Attributes:
        load: gives how much of this host is in use, as it was last read.
        looks: gives what came of trying to reach other nodes.
    """

    load: Callable[[], Load | None] = lambda: None
    looks: Callable[[], dict[str, Look]] = dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who holds a lease.

    Attributes:
        node: the name.
        host: where this agent runs, for the other one to be told.
        ttl_s: seconds after which an unrefreshed lease runs out; at least 1.
        incarnation: gives this run's.
        identity: gives what this node signs with; another one after each renewal.
        connection: gives the connection through which the lease is written; see `Connection.id`.
        cargo: what its lease carries besides.
    """

    node: str
    host: str
    ttl_s: int
    incarnation: Callable[[], int]
    identity: Callable[[], SigningIdentity]
    connection: Callable[[], str] = str
    cargo: Cargo = Cargo()


class LeaseKeeper:
    """Keeps one run's lease: one small write every third of its time.

    Attributes:
        holder: what tells this run from every other run of this node.
        held_since_ms: when the lease was written that has not run out since, unix milliseconds;
            None before that.
        latency_s: what the latest refresh took, in seconds.
        problem: why the lease cannot be refreshed now; empty if it can.
        clone: the lease of whoever was last refused: another host with this node's identity.
    """

    def __init__(
        self,
        tenant: Tenant,
        verifier: Verifier,
        bucket: Bucket,
        clock: Clock,
        cloned: Callable[[Lease], None] = lambda _: None,
        observe: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        """Takes what it needs.

        Args:
            tenant: who holds the lease.
            verifier: whom this node believes.
            bucket: the leases.
            clock: the time.
            cloned: called with the lease of each run that was refused, once.
            observe: takes note of each refresh: `kept` or `failed`, and the seconds that it took.
        """
        self.holder: Final = secrets.token_hex(8)
        self.held_since_ms: int | None = None
        self.latency_s = 0.0
        self.problem = ""
        self.clone: Lease | None = None
        self._tenant = tenant
        self._verifier = verifier
        self._bucket = bucket
        self._clock = clock
        self._cloned = cloned
        self._observe = observe
        self._claim = Claim(self.holder)
        self._revision: int | None = None
        self._refreshed_s: float | None = None
        self._taken_s: float | None = None
        self._broken_s: float | None = None
        self._hurried = asyncio.Event()
        self._complaint = ""
        self._turn = asyncio.Lock()
        self._released = False

    @property
    def ttl_s(self) -> int:
        """Seconds after which an unrefreshed lease runs out."""
        return self._tenant.ttl_s

    @property
    def connection(self) -> str:
        """The connection to the server that there is now; empty if there is none."""
        return self._tenant.connection()

    @property
    def last_refresh_s(self) -> float | None:
        """Seconds since the lease was last written; None if it never was."""
        return None if self._refreshed_s is None else self._clock.monotonic_s() - self._refreshed_s

    @property
    def is_steady(self) -> bool:
        """Whether the lease holds, and has not run out for as long as it lasts.

        A node whose own lease ran out a moment ago cannot tell whether it was the others that failed.
        """
        now_s, ttl_s = self._clock.monotonic_s(), self._tenant.ttl_s
        if self._refreshed_s is None or now_s - self._refreshed_s > ttl_s:
            return False
        return self._broken_s is None or now_s - self._broken_s > ttl_s

    async def run(self) -> None:
        """Keeps the lease until it is released; while the log is away it tries again and again.

        Raises:
            IdentityCloned: if another run with this node's identity lives, and was there first.
        """
        while not self._released:
            async with self._turn:
                await self._refresh()
            await self._rest()

    def hurry(self) -> None:
        """Refreshes the lease at once, so that it names the connection that there is now."""
        self._hurried.set()

    async def _rest(self) -> None:
        pausing = asyncio.ensure_future(self._clock.sleep(self._pause_s()))
        hurrying = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((pausing, hurrying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hurried.clear()
            for task in (pausing, hurrying):
                task.cancel()

    async def release(self) -> None:
        """Gives the lease back, so that the name is free at once; never takes longer than 0.5 s."""
        self._released = True
        try:
            async with asyncio.timeout(_RELEASE_S), self._turn:
                if self._revision is not None:
                    await self._bucket.delete(self._tenant.node, expected=self._revision)
        except (TimeoutError, LogError) as error:
            _log.debug("lease not given back; it runs out by itself", detail=str(error))

    def _pause_s(self) -> float:
        """Returns how long to wait; a little less each time, so that a mesh does not refresh in step."""
        ttl_s = self._tenant.ttl_s
        on_trial = self._taken_s is not None and self._clock.monotonic_s() - self._taken_s < ttl_s
        turns = _LOOKS_PER_TTL if on_trial or self._revision is None else _REFRESHES_PER_TTL
        return ttl_s / turns * (1 - _random.uniform(0, _JITTER))

    async def _refresh(self) -> None:
        began_s = self._clock.monotonic_s()
        expected, self._revision = self._revision, None
        try:
            if expected is None or not await self._write(expected):
                await self._contest()
        except LogError as error:
            self._observe("failed", self._clock.monotonic_s() - began_s)
            self._note(str(error))
            return
        now_s = self._clock.monotonic_s()
        if self._refreshed_s is None or now_s - self._refreshed_s > self._tenant.ttl_s:
            self.held_since_ms = self._clock.now_ms()
            self._broken_s = None if self._refreshed_s is None else now_s
        self._refreshed_s = now_s
        self.latency_s = now_s - began_s
        self._observe("kept", self.latency_s)
        self._note("")

    async def _contest(self) -> None:
        """Writes the lease over whatever is there, by the rules.

        Raises:
            IdentityCloned: if this run is to stop.
            LogUnavailable: if others write faster than this run can read.
        """
        node = self._tenant.node
        for _ in range(_CONTESTS_MAX):
            entry = await self._bucket.get(node)
            found = None if entry is None else await self._believed(entry)
            decision = lease.decide(self._claim, found)
            if found is not None:
                self._heed(decision, found)
            self._claim = decision.claim
            if await self._write(0 if entry is None else entry.revision):
                if decision.verdict == "take":
                    self._taken_s = self._clock.monotonic_s()
                return
        raise LogUnavailable(f"the lease of {node} was written by others {_CONTESTS_MAX} times in a row")

    async def _write(self, expected: int) -> bool:
        """Writes the lease, and returns whether the key still had the revision that was expected."""
        tenant, claim = self._tenant, self._claim
        value = lease.seal(
            Lease(
                node=tenant.node,
                incarnation=tenant.incarnation(),
                holder=claim.holder,
                over=claim.over,
                refused=claim.refused,
                host=tenant.host,
                time_ms=self._clock.now_ms(),
                connection=tenant.connection(),
                load=tenant.cargo.load(),
                looks=tenant.cargo.looks(),
            ),
            self._verifier.trust.mesh,
            tenant.identity(),
        )
        try:
            self._revision = await self._bucket.put(tenant.node, value, expected=expected, ttl_s=tenant.ttl_s)
        except SequenceConflict:
            return False
        return True

    async def _believed(self, entry: BucketEntry) -> Lease | None:
        """Returns the lease that a value is, or None if this node did not sign it."""
        try:
            await self._verifier.signer(lease.signer_of(entry.value))
            return lease.unseal(entry.value, entry.key, self._verifier.trust, self._clock.now_ms())
        except RemoteProtocolError as error:
            complaint = f"{error.reason}: {error}"[:300]
            if complaint != self._complaint:
                _log.warning("lease not believed; writing it anew", node=entry.key, detail=complaint)
            self._complaint = complaint
            return None

    def _heed(self, decision: Decision, found: Lease) -> None:
        """Tells whom it concerns that two runs live with this node's identity."""
        node = self._tenant.node
        if decision.verdict == "stop":
            raise IdentityCloned(node, found.host)
        if decision.verdict == "refuse" and found.holder not in self._claim.refused:
            self.clone = found
            _log.warning(
                "another host runs with this node's identity; it was told to stop",
                node=node,
                host=found.host,
                incarnation=found.incarnation,
            )
            self._cloned(found)

    def _note(self, problem: str) -> None:
        """Keeps what stands in the way, and logs only that something does, and that nothing does any more."""
        if problem and not self.problem:
            _log.warning("lease not refreshed; trying again", node=self._tenant.node, detail=problem)
        elif self.problem and not problem:
            _log.info("lease refreshed again", node=self._tenant.node)
        self.problem = problem
