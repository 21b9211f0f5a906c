"""Leaf nodes, as text of a nats-server's configuration: where the hub takes them, and how a host becomes one.

A leaf node is a nats-server that is to the hub what a client is: it logs in with a certificate of the
mesh, and whatever its own clients do at the hub is done with the rights of that identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from pmoves_mesh.server.access import Access, Pin
from pmoves_mesh.server.accounts import quoted

DIRECTORY: Final = "leaf"
"""Below the data directory of a host: what its leaf node keeps."""

SERVICE_PREFIX: Final = "leaf-"
"""Before a node's name, the service as which its leaf node logs in."""

_RECONNECT_S: Final = 1


class Remote(Struct, frozen=True, kw_only=True):
    """The hub, as a leaf node logs in to it.

    Attributes:
        hosts: addresses of the hub, in the order in which they are tried.
        port: at which it takes leaf nodes.
        server_name: the name that its certificate bears, at whichever address it is reached.
        certificate: path of the leaf node's certificate.
        key: path of its private key.
        roots: path of the mesh's CA certificates.
    """

    hosts: tuple[str, ...]
    port: int
    server_name: str
    certificate: str
    key: str
    roots: str


class Spoke(Struct, frozen=True, kw_only=True):
    """A nats-server on loopback that may be a leaf node.

    Attributes:
        domain: of its JetStream, which keeps the streams of the host apart from the hub's.
        remote: the hub; None while it cannot log in there yet.
    """

    domain: str
    remote: Remote | None = None


class Named(Protocol):
    """Somebody who was given an identity."""

    @property
    def kind(self) -> str:
        """What it is for."""

    @property
    def name(self) -> str:
        """The last part of its SPIFFE ID."""


def is_leaf(one: Named) -> bool:
    """Returns whether an identity is that of a host's leaf node."""
    return one.kind == "service" and one.name.startswith(SERVICE_PREFIX)


def leaf_pins(access: Access) -> Iterator[Pin]:
    """Yields the pins of those who may log in as leaf nodes: nobody else gets further than the greeting."""
    for member in filter(is_leaf, access.members):
        yield from member.pins


def monitored_block(directory: Path) -> str:
    """Returns the block by which programs of this host can ask a server who is connected to it.

    It picks a free port of loopback, which a file in the directory names.

    Source: docs.nats.io, "Monitoring" and `ports_file_dir`.
    """
    return f'http: "127.0.0.1:-1"\nports_file_dir: {quoted(str(directory))}\n'


def taken_block(host: str, port: int, tls: str) -> str:
    """Returns the block by which a secured server takes leaf nodes, each with the rights of its identity.

    There is no `authorization` in it: with one, nats-server would give a leaf node all rights in an
    account. Without it, a leaf node is the user of its certificate, as a client is.

    Args:
        host: the address to listen on.
        port: at least 1.
        tls: the `tls` block that clients of the server meet.

    Source: docs.nats.io, "Leaf Nodes", configuration.
    """
    place = f"[{host}]" if ":" in host else host
    return f"leafnodes {{\n    listen: {quoted(f'{place}:{port}')}\n    no_advertise: true\n{tls}}}\n"


def spoke_block(spoke: Spoke) -> str:
    """Returns the block by which a server logs in to the hub; nothing while it cannot.

    nats-server checks the hub's certificate against the name in its address, and at an address that
    is a number against the first name among the others. So the name that the certificate bears stands
    last, and with its dot nothing is looked up beside it.

    Source: docs.nats.io, "Leaf Nodes", remotes; nats-server, `saveTLSHostname`.
    """
    remote = spoke.remote
    if remote is None:
        return ""
    urls = [f"tls://{f'[{host}]' if ':' in host else host}:{remote.port}" for host in remote.hosts]
    urls.append(f"tls://{remote.server_name}.:{remote.port}")
    listed = "\n".join(f"            {quoted(url)}" for url in urls)
    return f"""\
leafnodes {{
    reconnect: {_RECONNECT_S}
    remotes: [{{
        urls: [
{listed}
        ]
        no_randomize: true
        tls {{
            cert_file: {quoted(remote.certificate)}
            key_file: {quoted(remote.key)}
            ca_file: {quoted(remote.roots)}
        }}
    }}]
}}
"""


def is_number(host: str) -> bool:
    """Returns whether a host is given by its address, and need not be looked up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
