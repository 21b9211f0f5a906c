"""What the embedded nats-server is told: its configuration file, as text."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from msgspec import Struct

from pmoves_mesh.server.access import Access, Pin
from pmoves_mesh.server.accounts import accounts_block, quoted
from pmoves_mesh.server.anchors import constrained_anchors
from pmoves_mesh.server.cluster import Cluster, cluster_block
from pmoves_mesh.server.leaf import Spoke, leaf_pins, monitored_block, spoke_block, taken_block

HOST: Final = "127.0.0.1"
MAX_PAYLOAD: Final = "1MB"
CONNECTIONS_MAX: Final = 4096
SUBSCRIPTIONS_MAX: Final = 1024
"""Of one connection."""

TLS_TIMEOUT_S: Final = 5

_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}  # noqa: S104 - names them, binds nothing
_NOBODY: Final = "0" * 64
"""A pin that no key has: with none at all the server would not check pins."""


class ServerFiles(Struct, frozen=True):
    """Where the embedded server of one node keeps what it writes: all below one directory."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration; its path on the server's command line also marks the process as ours."""
        return self.directory / "nats-server.conf"

    @property
    def name(self) -> Path:
        """The server's name, made once for this directory."""
        return self.directory / "server_name"

    @property
    def pid(self) -> Path:
        """The process id, while the server runs."""
        return self.directory / "nats-server.pid"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "nats-server.log"

    @property
    def output(self) -> Path:
        """What the server says before it has a log, and when it crashes."""
        return self.directory / "nats-server.out"

    @property
    def listener(self) -> Path:
        """Where the server listens, for whoever lets another mesh in."""
        return self.directory / "listener.json"

    @property
    def access(self) -> Path:
        """Who may log in: a file per mesh."""
        return self.directory / "access"

    @property
    def anchors(self) -> Path:
        """The CA certificates that the server trusts, each for its own mesh."""
        return self.directory / "anchors.pem"

    @property
    def streams(self) -> Path:
        """The streams and buckets of a server that is alone."""
        return self.directory / "jetstream"

    @property
    def shared_streams(self) -> Path:
        """This server's part of the streams and buckets that several keep together."""
        return self.directory / "cluster"

    @property
    def growing(self) -> ServerFiles:
        """Where the server of the streams runs that this one held alone, while others take them over."""
        return ServerFiles(self.directory.with_name("growing") / "nats")


class Listener(Struct, frozen=True, kw_only=True):
    """Where a server listens, and as whom.

    Attributes:
        host: an address or a name of this host.
        mesh: the mesh whose server it is; empty where it keeps no meshes apart.
        certificate: path of the server's certificate; empty for one that speaks plainly, on loopback.
        key: path of its private key.
        leaf_port: where a secured one takes leaf nodes; 0 takes none.
        spoke: as which leaf node a plain one logs in to the hub; None for one that is none.
        cluster: the servers that keep the streams together with it; None where it is alone.
    """

    port: int
    host: str = HOST
    mesh: str = ""
    certificate: str = ""
    key: str = ""
    leaf_port: int = 0
    spoke: Spoke | None = None
    cluster: Cluster | None = None

    @property
    def secured(self) -> bool:
        """Whether it takes mutual TLS alone."""
        return self.certificate != ""

    @property
    def certified(self) -> bool:
        """Whether it shows a certificate, which may be renewed."""
        return self.secured or (self.spoke is not None and self.spoke.remote is not None)

    @property
    def reached_at(self) -> str:
        """The address at which a program of this host reaches it."""
        return _REACHED_AT.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Where a client of this host reaches it."""
        place = f"[{self.reached_at}]" if ":" in self.reached_at else self.reached_at
        return f"{'tls' if self.secured else 'nats'}://{place}:{self.port}"


def render(files: ServerFiles, server_name: str, listener: Listener, accesses: Sequence[Access] = ()) -> str:
    """Returns the configuration of a server whose acknowledgements mean: on the disk.

    Args:
        files: where it keeps what it writes.
        server_name: by which it greets.
        listener: where it listens.
        accesses: who may log in; only where it is secured, else whoever reaches loopback may.

    Source: docs.nats.io, "Configuration" and "JetStream, sync_interval".
    """
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    spoke = listener.spoke
    domain = f"    domain: {quoted(spoke.domain)}\n" if spoke else ""
    streams = files.streams if listener.cluster is None else files.shared_streams
    plain = f"""\
listen: {quoted(f"{host}:{listener.port}")}
server_name: {quoted(server_name)}
max_payload: {MAX_PAYLOAD}
pid_file: {quoted(str(files.pid))}
log_file: {quoted(str(files.log))}
logfile_size_limit: 10MB
logfile_max_num: 3
jetstream {{
    store_dir: {quoted(str(streams))}
    sync_interval: always
{domain}}}
"""
    if listener.secured:
        return plain + _secured(files, listener, accesses)
    return plain if spoke is None else plain + monitored_block(files.directory) + spoke_block(spoke)


def anchors(accesses: Sequence[Access]) -> str:
    """Returns the trust anchors (PEM) of a secured server: each mesh's CA, good for that mesh alone.

    Raises:
        StartError: if a CA's certificate cannot be used.
    """
    return "".join(
        constrained_anchors(access.anchor_pem, access.mesh, _users_beside(access, accesses))
        for access in accesses
    )


def leaf_keys(listener: Listener, accesses: Sequence[Access]) -> AbstractSet[Pin]:
    """Returns the pins of those for whom the server listens to leaf nodes; without any, it does not."""
    home = [access for access in accesses if access.mesh == listener.mesh and listener.leaf_port]
    return {pin for access in home for pin in leaf_pins(access)}


def _users_beside(access: Access, accesses: Sequence[Access]) -> list[str]:
    return [member.identity for other in accesses if other.mesh != access.mesh for member in other.members]


def _secured(files: ServerFiles, listener: Listener, accesses: Sequence[Access]) -> str:
    """Returns what makes a server take mutual TLS alone, and each identity as a user of its own.

    Source: docs.nats.io, "TLS Authentication" (verify_and_map, pinned_certs).
    """
    own = (listener.certificate, listener.key)
    guests = [
        (access.certificate, access.key)
        for access in accesses
        if access.certificate and access.mesh != listener.mesh
    ]
    pins = {pin for access in accesses for member in access.members for pin in member.pins}
    tls = _tls_block(files, (own, *guests), pins)
    leafs = ""
    theirs = leaf_keys(listener, accesses)
    if theirs:
        leafs = taken_block(listener.host, listener.leaf_port, _tls_block(files, (own,), theirs))
    limits = f"max_connections: {CONNECTIONS_MAX}\nmax_subscriptions: {SUBSCRIPTIONS_MAX}\n"
    return limits + tls + leafs + _routes(files, listener, accesses) + accounts_block(accesses)


def _tls_block(files: ServerFiles, certificates: Sequence[tuple[str, str]], pins: AbstractSet[str]) -> str:
    shown = "\n".join(
        f"        {{cert_file: {quoted(certificate)}, key_file: {quoted(key)}}}"
        for certificate, key in certificates
    )
    pinned = "\n".join(f"        {quoted(pin)}" for pin in sorted(pins) or (_NOBODY,))
    return f"""\
tls {{
    certs: [
{shown}
    ]
    ca_file: {quoted(str(files.anchors))}
    verify_and_map: true
    timeout: {TLS_TIMEOUT_S}
    pinned_certs: [
{pinned}
    ]
}}
"""


def _routes(files: ServerFiles, listener: Listener, accesses: Sequence[Access]) -> str:
    if listener.cluster is None:
        return ""
    own = next(access for access in accesses if access.mesh == listener.mesh)
    return cluster_block(listener.cluster, own, listener.certificate, listener.key, str(files.anchors))
