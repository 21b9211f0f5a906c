"""How much of this agent anybody may take: of its connections, its time and its patience.

Source: the generic cell rate algorithm, ITU-T I.371 annex A (a token bucket in one number).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import Final, Literal

from aiohttp import web

from pmoves_mesh.errors import RateLimitedError
from pmoves_mesh.ports import Clock
from pmoves_mesh.views.http.peers import is_loopback, network_of

Cost = Literal["read", "write", "enrolment"]

_LOCAL: Final = "this host"
_OTHERS: Final = "others"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the HTTP server lets a client take. A host is an IPv4 address, or an IPv6 network of /64.

    Attributes:
        first_byte_s: seconds until a connection from another host must say anything.
        handshake_s: seconds that a TLS handshake may take.
        header_s: seconds that the headers of a request may take.
        stalled_s: seconds after which another host that takes nothing of its answer is cut off.
        connections_max: how many connections other hosts may have open, all together.
        connections_per_host_max: how many connections one other host may have open.
        reads_per_s: how many reads another host may make a second; in a burst, twice as many.
        writes_per_s: how many writes, likewise.
        enrolments_per_min: how many requests for identities a host may make a minute, and in a burst.
        enrolments_in_all_per_min: how many all other hosts may make together.
        enrolments_here_per_min: how many the programs of this host may make.
        hosts_max: how many hosts are remembered.
    """

    first_byte_s: float = 10.0
    handshake_s: float = 10.0
    header_s: float = 10.0
    stalled_s: float = 60.0
    connections_max: int = 1024
    connections_per_host_max: int = 128
    reads_per_s: float = 1000.0
    writes_per_s: float = 100.0
    enrolments_per_min: int = 10
    enrolments_in_all_per_min: int = 60
    enrolments_here_per_min: int = 600
    hosts_max: int = 10_000


class RateLimit:
    """A token bucket for each of many callers, of which only those in debt are remembered.

    Attributes:
        what: what is counted, in the plural.
        per_s: how many a second.
        burst: how many at once.
    """

    def __init__(self, what: str, per_s: float, burst: float, *, callers_max: int) -> None:
        self.what: Final = what
        self.per_s: Final = per_s
        self.burst: Final = burst
        self._callers_max: Final = callers_max
        self._paid_s: dict[str, float] = {}

    def take(self, caller: str, now_s: float) -> None:
        """Takes one token of a caller's.

        Args:
            caller: whose.
            now_s: monotonic seconds.

        Raises:
            RateLimitedError: if it has none left; the attempt costs nothing.
        """
        paid_s = max(self._paid_s.get(caller, now_s), now_s) + 1 / self.per_s
        wait_s = paid_s - now_s - self.burst / self.per_s
        if wait_s > 1e-9:  # the sum of many parts of a second is not exact
            raise RateLimitedError(self.what, wait_s)
        if caller not in self._paid_s and len(self._paid_s) >= self._callers_max:
            self._forget(now_s)
        self._paid_s[caller] = paid_s

    @property
    def remembered(self) -> int:
        """How many callers are remembered."""
        return len(self._paid_s)

    def _forget(self, now_s: float) -> None:
        """Forgets whoever has no debt, and if that is not enough, the tenth with the smallest."""
        self._paid_s = {caller: paid_s for caller, paid_s in self._paid_s.items() if paid_s > now_s}
        if len(self._paid_s) >= self._callers_max:
            for caller in nsmallest(self._callers_max // 10 + 1, self._paid_s, key=self._paid_s.__getitem__):
                del self._paid_s[caller]


class Limits:
    """The rates of one server."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self._clock = clock
        most = bounds.hosts_max
        self._rates: Final[dict[str, RateLimit]] = {
            "read": RateLimit("reads", bounds.reads_per_s, 2 * bounds.reads_per_s, callers_max=most),
            "write": RateLimit("writes", bounds.writes_per_s, 2 * bounds.writes_per_s, callers_max=most),
        }
        self._enrolments = _per_minute(bounds.enrolments_per_min, most)
        self._enrolments_in_all = _per_minute(bounds.enrolments_in_all_per_min, 1)
        self._enrolments_here = _per_minute(bounds.enrolments_here_per_min, 1)

    def check(self, remote: str, cost: Cost) -> None:
        """Counts a request; this host's own are free, but for those that ask for an identity.

        Args:
            remote: the address it comes from.
            cost: what it costs.

        Raises:
            RateLimitedError: if there were too many.
        """
        local = is_loopback(remote)
        if local and cost != "enrolment":
            return
        now_s = self._clock.monotonic_s()
        if cost != "enrolment":
            self._rates[cost].take(network_of(remote), now_s)
        elif local:
            self._enrolments_here.take(_LOCAL, now_s)
        else:
            # First its own: whoever has used that up takes nothing of what all share.
            self._enrolments.take(network_of(remote), now_s)
            self._enrolments_in_all.take(_OTHERS, now_s)


def _per_minute(count: int, callers_max: int) -> RateLimit:
    return RateLimit("requests for identities", count / 60, count, callers_max=callers_max)


LIMITS: Final = web.AppKey("limits", Limits)
