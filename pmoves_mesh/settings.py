"""The table of settings: every environment variable that is read, its default, and what it means.

The README's table is compared with it.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Setting(NamedTuple):
    """One environment variable: its name, its default as one would write it, and what it means."""

    name: str
    default: str
    meaning: str


SETTINGS: Final = (
    Setting("PMOVES_MESH_NAME", "pmoves-mesh", "name of the mesh, which is its trust domain"),
    Setting("MESH_HOSTNAME", "", "name of this node; if unset `NODE_NAME`, else the host's name"),
    Setting("NODE_NAME", "", "name of this node, where `MESH_HOSTNAME` is unset"),
    Setting(
        "SERVICE_MODE",
        "docked",
        "`docked` uses the mesh's NATS; `standalone` works alone too; the default of this node's instances",
    ),
    Setting("NODE_CAPABILITIES", "", "comma list of what this node can do, such as `gpu:rtx5090`"),
    Setting("NATS_URL", "", "comma list of NATS servers; if unset, an embedded one is run on loopback"),
    Setting(
        "NATS_EXTERNAL_URL",
        "",
        "comma list of the addresses at which NATS is reached from outside; in mode `standalone`, "
        "if `NATS_URL` is unset, those of the mesh's NATS, used while it can be reached",
    ),
    Setting("NATS_USER", "", "user for NATS; outranks the one in a URL"),
    Setting("NATS_PASSWORD", "", "password for NATS; outranks the one in a URL"),
    Setting("NATS_TOKEN", "", "token for NATS; outranks the one in a URL"),
    Setting("NATS_CREDS", "", "path of a NATS credentials file"),
    Setting("NATS_NKEY_SEED", "", "path of a file with a NATS NKey seed"),
    Setting("NATS_TLS_CA", "", "path of the certificates that NATS servers are checked against"),
    Setting("NATS_TLS_CERT", "", "path of the certificate to show to NATS"),
    Setting("NATS_TLS_KEY", "", "path of that certificate's private key"),
    Setting("PMOVES_NATS_PORT", "4222", "port of the embedded NATS server"),
    Setting(
        "PMOVES_NATS_HOST",
        "127.0.0.1",
        "address on which the embedded NATS server listens; beyond loopback only with mutual TLS",
    ),
    Setting(
        "PMOVES_NATS_CLUSTER",
        "",
        "comma list of the nodes whose embedded NATS servers keep the streams together, each `name`, "
        "`name=address` or `name=address:port`, the same on all of them; outranks `NATS_URL`",
    ),
    Setting(
        "PMOVES_NATS_ROUTES_PORT", "6222", "port on which the embedded servers of a cluster reach one another"
    ),
    Setting(
        "PMOVES_NATS_DIR",
        "",
        "directory of another agent's embedded NATS server, in which this mesh is a guest: `<its data>/nats`",
    ),
    Setting(
        "PMOVES_LEAF",
        "0",
        "`1` runs a nats-server for the services of a `standalone` host, which joins the hub as a leaf node",
    ),
    Setting(
        "PMOVES_LEAF_PORT",
        "7422",
        "port at which the hub takes leaf nodes, on both sides: a hub listens there once a host has one; "
        "0 takes none",
    ),
    Setting(
        "SERVICE_REGISTRY_HOST",
        "127.0.0.1",
        "address on which the HTTP API and DNS listen; beyond loopback HTTP speaks TLS to other hosts",
    ),
    Setting("SERVICE_REGISTRY_PORT", "8100", "port of the HTTP API; 0 picks a free one"),
    Setting(
        "SERVICE_REGISTRY_TOKEN",
        "",
        "token with which programs of other hosts may write over HTTP; a client certificate does too",
    ),
    Setting(
        "SERVICE_REGISTRY_URL",
        "",
        "address of the agent that a Python program asks; if unset, this host's by the settings above",
    ),
    Setting("PMOVES_INSECURE_HTTP", "0", "`1` lets other hosts use the HTTP API without TLS"),
    Setting("PMOVES_DNS_PORT", "8600", "port on which DNS is answered, UDP and TCP; 0 is off"),
    Setting("PMOVES_DNS_TTL", "5", "seconds for which others may remember an answer of DNS, 0 to 86400"),
    Setting(
        "PMOVES_DNS_NEGATIVE_TTL", "1", "seconds for which they may remember that there is none, 0 to 3600"
    ),
    Setting(
        "PMOVES_COMMAND_CHECKS",
        "0",
        "`1` lets programs of this host register checks that run a command, as the agent's user",
    ),
    Setting(
        "PMOVES_CONTAINERS",
        "",
        "socket of the container engine whose labelled containers are registered, `off` for none; if unset, "
        "Docker's or Podman's",
    ),
    Setting("ANNOUNCE_SEC", "15", "seconds between announcements, 1 to 3600"),
    Setting(
        "PMOVES_ADVERTISE_HOST",
        "",
        "address that others are told to reach this node at; if unset, Tailscale's, else that of its route "
        "to NATS",
    ),
    Setting("PMOVES_DATA_DIR", "data", "where this node keeps its database, identity and NATS data"),
    Setting(
        "PMOVES_HOST_ROOT",
        "/",
        "directory with the host's `proc`, `sys`, `dev` and `etc`, where its resources are read",
    ),
    Setting("PMOVES_TLS_DIR", "tls", "where the mesh's CA and certificates are"),
    Setting("MESH_PASSPHRASE", "", "passphrase of the CA's key, where it is encrypted"),
    Setting(
        "PMOVES_CA_URL",
        "",
        "comma list of HTTPS addresses at which the CA renews this node's certificate; `join` writes it",
    ),
    Setting(
        "PMOVES_LEASE_TTL_S", "10", "seconds after which a node that gives no sign of life is lost, 2 to 300"
    ),
    Setting("PMOVES_RECONCILE_S", "600", "seconds between comparisons of the bucket with what is known here"),
    Setting("PMOVES_UNSIGNED", "reject", "`accept` reads unsigned announcements too, for a migration"),
    Setting("PMOVES_BRIDGE_ANNOUNCE", "0", "`1` repeats this node's services on `services.announce.v1`"),
    Setting("PMOVES_STREAM_MAX_AGE_S", "2592000", "seconds that the stream keeps events"),
    Setting("PMOVES_STREAM_MAX_BYTES", "1073741824", "bytes that the stream may take"),
    Setting(
        "PMOVES_EVENTS_MAX_AGE_S", "604800", "seconds that the streams of applications' events keep them"
    ),
    Setting("PMOVES_EVENTS_MAX_BYTES", "268435456", "bytes that each of those streams may take"),
    Setting(
        "MESH_NETWORK_MODE",
        "both",
        "`tailscale` or `both` announce this node's Tailscale address where there is one; `nats` does not",
    ),
    Setting("TAILSCALE_AUTHKEY", "", "key with which `tailscale setup` joins this host; kept secret"),
    Setting("TAILSCALE_AUTHKEY_FILE", "", "path of a file that holds that key"),
    Setting("TAILSCALE_LOGIN_SERVER", "", "address of a Headscale server; if unset, Tailscale's own"),
    Setting("TAILSCALE_TAGS", "tag:pmoves", "comma list of this host's tags in the tailnet; `none` is none"),
    Setting("TAILSCALE_ACCEPT_ROUTES", "1", "`0` ignores the networks that other hosts advertise"),
    Setting("TAILSCALE_ADVERTISE_ROUTES", "", "comma list of networks that others reach through this host"),
    Setting("TAILSCALE_TIMEOUT", "300", "seconds to wait until Tailscale is up, 1 to 3600"),
)
