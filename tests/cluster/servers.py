"""Three real nats-servers that keep one stream together, each on a place of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import requests
from agents import eventually
from nats_server import NatsServer
from places import Place

SERVERS: Final = 3
STREAMS: Final = ("MESH_EVENTS", "KV_MESH_REGISTRY", "KV_MESH_IDENTITIES", "KV_MESH_LEASES")
FORMED_S: Final = 30.0


@dataclass(frozen=True)
class Ports:
    """Where one server listens."""

    clients: int
    routes: int
    monitor: int


def ports_at(place: Place) -> Ports:
    return Ports(place.port(4222), place.port(6222), place.port(8222))


class Member(NatsServer):
    """One server of a cluster."""

    def __init__(self, directory: Path, name: str, place: Place, ports: Ports) -> None:
        super().__init__(directory / name, ports.clients)
        self.name = name
        self.place = place
        self.ports = ports
        self._others: list[Member] = []

    @property
    def address(self) -> str:
        return self.place.address

    @property
    def program(self) -> tuple[str, ...]:
        return (*self.place.inside, *super().program)

    def start(self) -> Self:
        with self.place.entered():
            return super().start()

    def join(self, members: list[Member]) -> None:
        """Takes the configuration of one of these members."""
        self._others = [one for one in members if one is not self]
        routes = ", ".join(f'"nats-route://{one.place.address}:{one.ports.routes}"' for one in members)
        self.configure(
            f"server_name: {self.name}\n"
            f"http: 127.0.0.1:{self.ports.monitor}\n"
            f"cluster {{ name: mesh, listen: {self.place.address}:{self.ports.routes}, routes: [{routes}] }}"
        )

    @contextlib.contextmanager
    def parted(self) -> Iterator[None]:
        """Keeps the server from the other servers while the context lasts; its clients still reach it."""
        assert self.place.host is not None
        others = [one.place.address for one in self._others]
        for address in others:
            self._route("add", address)
        try:
            yield
        finally:
            for address in others:
                self._route("delete", address)

    def _route(self, verb: str, address: str) -> None:
        assert self.place.host is not None
        words = ("ip", "-n", self.place.host.name, "route", verb, "blackhole", f"{address}/32")
        subprocess.run(words, check=True, capture_output=True, text=True)

    def streams(self) -> dict[str, dict[str, Any]]:
        """Returns what the server knows of each stream; nothing if it does not answer."""
        with contextlib.suppress(requests.RequestException), self.place.entered():
            url = f"http://127.0.0.1:{self.ports.monitor}/jsz?accounts=true&streams=true&config=true"
            accounts = requests.get(url, timeout=2).json().get("account_details") or []
            return {one["name"]: one for account in accounts for one in account.get("stream_detail") or []}
        return {}

    def meta_leader(self) -> str:
        """Returns whom the server takes for the one that decides which server keeps which stream."""
        with contextlib.suppress(requests.RequestException), self.place.entered():
            url = f"http://127.0.0.1:{self.ports.monitor}/jsz"
            found = requests.get(url, timeout=2).json()
            return str(found.get("meta_cluster", {}).get("leader", ""))
        return ""


class Cluster:
    """Three servers; all of them end with the context.

    Attributes:
        members: the servers, running or not.
    """

    def __init__(self, directory: Path, places: tuple[Place, ...]) -> None:
        names = [f"nats-{number}" for number in range(1, len(places) + 1)]
        self.members = [
            Member(directory, name, place, ports_at(place)) for name, place in zip(names, places, strict=True)
        ]
        for member in self.members:
            member.join(self.members)

    @property
    def url(self) -> str:
        """All servers, as `NATS_URL` has them."""
        return ",".join(member.url for member in self.members)

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members if member.is_running]

    def leader(self, stream: str = STREAMS[0], *, among: list[Member] | None = None) -> Member | None:
        """Returns the server that leads a stream, as the running ones agree; None if they do not."""
        asked = self.running if among is None else among
        told = {member.streams().get(stream, {}).get("cluster", {}).get("leader", "") for member in asked}
        found = [member for member in asked if told == {member.name}]
        return found[0] if found else None

    def led(self, within_s: float = FORMED_S, *, among: list[Member] | None = None) -> Member:
        """Returns the stream's leader once there is one."""
        eventually(lambda: self.leader(among=among) is not None, "the stream has a leader", within_s)
        leader = self.leader(among=among)
        assert leader is not None
        return leader

    def followers(self) -> list[Member]:
        leader = self.led()
        return [member for member in self.running if member is not leader]

    def is_whole(self) -> bool:
        """Whether every server is up, and holds all of every stream."""
        leader = self.leader()
        if len(self.running) < SERVERS or leader is None:
            return False
        streams = leader.streams()
        groups = [streams.get(name, {}).get("cluster", {}) for name in STREAMS]
        if not all(group.get("leader") for group in groups):
            return False
        led = {group["leader"]: self._named(group["leader"]).streams() for group in groups}
        return all(
            _is_complete(led[group["leader"]].get(name, {}).get("cluster", {}))
            for name, group in zip(STREAMS, groups, strict=True)
        )

    def _named(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def whole(self, within_s: float = FORMED_S) -> None:
        """Waits until every server is up, and holds all of every stream."""
        eventually(self.is_whole, "all servers hold all of every stream", within_s)

    def __enter__(self) -> Self:
        for member in self.members:
            member.start()
        eventually(self._has_formed, "the servers are one cluster", FORMED_S)
        return self

    def _has_formed(self) -> bool:
        names = {member.meta_leader() for member in self.members}
        return len(names) == 1 and names <= {member.name for member in self.members}

    def __exit__(self, *_error: object) -> None:
        for member in self.members:
            member.kill()


def _is_complete(group: dict[str, Any]) -> bool:
    """Whether a stream's leader says that both others have all that it has."""
    replicas = group.get("replicas") or []
    return len(replicas) == SERVERS - 1 and all(
        one.get("current") and not one.get("offline") and not one.get("lag") for one in replicas
    )
