"""The servers of several hosts as one: the `cluster` block of each one's configuration.

A route carries the messages of every account, so a certificate of the mesh is not enough to be one:
its key has to be that of a node that the setting names. Host names and addresses in a certificate
prove nothing here, since a node chooses its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Struct

from pmoves_mesh.core.names import Label, spiffe_id
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.accounts import listed, quoted

ROUTE_TIMEOUT_S: Final = 5
_NOBODY: Final = "0" * 64
"""A pin that no key has: with none at all a server would not check pins."""


class Cluster(Struct, frozen=True, kw_only=True):
    """Which servers keep the streams of a mesh together, and where this one listens for the others.

    Attributes:
        own: name of this server's node, which is its own name among the others. A host that lost
            its disk thereby takes its old place.
        nodes: names of the nodes whose servers they are, `own` among them.
        routes: `host:port` of the other servers.
        host: the address on which this one listens for them.
        port: likewise.
    """

    own: Label
    nodes: tuple[Label, ...]
    routes: tuple[str, ...]
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]


def route_pins(cluster: Cluster, access: Access) -> tuple[str, ...]:
    """Returns the pins of whoever may be a route: the keys that the named nodes have now."""
    allowed = {spiffe_id(access.mesh, "node", name) for name in cluster.nodes}
    return tuple(
        sorted({pin for member in access.members if member.identity in allowed for pin in member.pins})
    )


def cluster_block(cluster: Cluster, access: Access, certificate: str, key: str, anchors: str) -> str:
    """Returns the `cluster` block of a server's configuration.

    Args:
        cluster: the servers.
        access: who may log in to the mesh whose servers they are.
        certificate: path of this server's certificate, which it shows to the others.
        key: path of its private key.
        anchors: path of the CA certificates that the others must chain to.

    Source: docs.nats.io, "Clustering Configuration" and "TLS Configuration" (pinned_certs).
    """
    host = f"[{cluster.host}]" if ":" in cluster.host else cluster.host
    return f"""\
cluster {{
    name: {quoted(access.mesh)}
    listen: {quoted(f"{host}:{cluster.port}")}
    no_advertise: true
    routes: {listed(_urls(cluster.routes))}
    tls {{
        cert_file: {quoted(certificate)}
        key_file: {quoted(key)}
        ca_file: {quoted(anchors)}
        verify: true
        timeout: {ROUTE_TIMEOUT_S}
        pinned_certs: {listed(route_pins(cluster, access) or (_NOBODY,))}
    }}
}}
"""


def _urls(routes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"nats-route://{route}" for route in routes)
