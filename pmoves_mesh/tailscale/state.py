"""What `tailscale status --json` says, taken apart; nothing here asks it.

Fields that this release does not read may come and go, as they do between Tailscale's own releases.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Final, Literal

import msgspec
from msgspec import Struct

Path = Literal["direct", "relayed", "idle", "offline"]
"""How packets get to a machine; idle is one with which nothing is exchanged now."""

_NEVER_YEAR: Final = 1
"""Go writes a time that is not set as the first day of year 1."""


class Peer(Struct, frozen=True, kw_only=True):
    """A machine of the tailnet, this one or another.

    Attributes:
        host_name: as the machine calls itself.
        dns_name: as the tailnet calls it, with its domain and a dot at the end; unique.
        addresses: IPv4 before IPv6, or either alone.
        current: the address and port at which it is reached directly; empty if it is not.
        relay: the region of its relay, whether or not that is used.
        peer_relay: the address and port of another machine that relays; empty if none does.
        active: whether something was exchanged within the last minutes.
        seen: when the control server last saw it; unset while it is connected.
        key_expires: when its key ends; None if it never does.
        expired: whether its key has ended, as the control server says.
    """

    host_name: str = msgspec.field(name="HostName", default="")
    dns_name: str = msgspec.field(name="DNSName", default="")
    addresses: tuple[str, ...] | None = msgspec.field(name="TailscaleIPs", default=())
    tags: tuple[str, ...] | None = msgspec.field(name="Tags", default=())
    current: str = msgspec.field(name="CurAddr", default="")
    relay: str = msgspec.field(name="Relay", default="")
    peer_relay: str = msgspec.field(name="PeerRelay", default="")
    online: bool = msgspec.field(name="Online", default=False)
    active: bool = msgspec.field(name="Active", default=False)
    seen: datetime | None = msgspec.field(name="LastSeen", default=None)
    key_expires: datetime | None = msgspec.field(name="KeyExpiry", default=None)
    expired: bool = msgspec.field(name="Expired", default=False)

    @property
    def ipv4(self) -> str | None:
        """Its IPv4 address."""
        return self._first(4)

    @property
    def ipv6(self) -> str | None:
        """Its IPv6 address."""
        return self._first(6)

    @property
    def name(self) -> str:
        """Its name within the tailnet; two machines that call themselves alike differ in it."""
        return (self.dns_name.partition(".")[0] or self.host_name).lower()

    @property
    def last_seen(self) -> datetime | None:
        """When it was last seen; None if that is now, or not known."""
        return None if self.seen is None or self.seen.year == _NEVER_YEAR else self.seen

    @property
    def path(self) -> Path:
        """How it is reached."""
        if not self.online:
            return "offline"
        if self.current:
            return "direct"
        return "relayed" if self.active else "idle"

    @property
    def via(self) -> str:
        """Where packets to it go through: an address, or the region of a relay; empty where none go."""
        if self.path not in {"direct", "relayed"}:
            return ""
        return self.current or self.peer_relay or self.relay

    def has_expired(self, now_ms: int) -> bool:
        """Whether its key has ended at a time, unix milliseconds."""
        expires = self.key_expires
        ended = expires is not None and expires.year > _NEVER_YEAR and expires.timestamp() * 1000 <= now_ms
        return self.expired or ended

    def _first(self, version: int) -> str | None:
        return next((text for text in self.addresses or () if _version(text) == version), None)


class TailscaleStatus(Struct, frozen=True, kw_only=True):
    """The whole of it.

    Attributes:
        backend_state: `Running`, `NeedsLogin`, `NeedsMachineAuth`, `Stopped`, `Starting` or `NoState`.
        myself: this machine, which is online if the state is `Running`, whatever its own field says.
        health: what Tailscale warns of.
    """

    backend_state: str = msgspec.field(name="BackendState")
    myself: Peer | None = msgspec.field(name="Self", default=None)
    peers: dict[str, Peer] | None = msgspec.field(name="Peer", default=None)
    health: tuple[str, ...] | None = msgspec.field(name="Health", default=())

    @property
    def running(self) -> bool:
        """Whether this machine is part of the tailnet now."""
        return self.backend_state == "Running"

    @property
    def machines(self) -> tuple[Peer, ...]:
        """This machine, which comes first, and all others by name."""
        others = sorted((self.peers or {}).values(), key=lambda peer: peer.name)
        if self.myself is None:
            return tuple(others)
        return (msgspec.structs.replace(self.myself, online=self.running), *others)


_decoder: Final = msgspec.json.Decoder(TailscaleStatus)


def parse_status(text: bytes) -> TailscaleStatus:
    """Returns what the program said.

    Raises:
        ValueError: if that is no status of Tailscale.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def _version(text: str) -> int:
    try:
        return ip_address(text).version
    except ValueError:
        return 0
