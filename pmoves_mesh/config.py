"""The settings: environment over `env.shared` over default, read once into one frozen `Config`.

An empty value counts as unset. A value that cannot be used stops the start with one line, which never
contains a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, cast

from pmoves_mesh import clustering
from pmoves_mesh.clustering import ClusterNode, at
from pmoves_mesh.core.application import Retention
from pmoves_mesh.core.names import Mode, parse_capabilities, parse_host, parse_label
from pmoves_mesh.errors import ConfigError, InvalidFieldError
from pmoves_mesh.tailscale import settings as tailnet
from pmoves_mesh.values import Credentials, Secret, Values

LEAF_NODE_LENGTH_MAX: Final = 58
"""Of a node's name that is to stand behind `leaf-` in one label."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, checked. Paths are absolute; server URLs never hold a user or a secret.

    Attributes:
        embedded: whether the NATS server of `nats_servers` is ours to run.
        nats_port: of the embedded server.
        nats_host: the address on which the embedded server listens.
        leaf: whether this host has a nats-server that is a leaf node of the hub, at `nats_port`.
        leaf_port: at which the hub takes leaf nodes; 0 takes none.
        nats_dir: of the embedded server that another agent of this host runs; None for our own.
        nats_cluster: the nodes whose embedded servers keep the streams together; none where it is alone.
        insecure_http: whether other hosts may use the HTTP API without TLS.
        ca_passphrase: opens the CA's key.
        ca_urls: where the CA renews this node's certificate, `https://host:port` each.
        http_port: 0 picks a free one.
        agent_url: `http://host:port` or `https://host:port` of the agent that a program asks; None for
            the one that these settings describe.
        dns_port: 0 is off.
        dns_ttl_s: for how long others may remember what DNS says is there.
        dns_negative_ttl_s: for how long, what is not.
        command_checks: whether a check may run a command.
        containers: socket of the container engine; empty to look for one, `off` for none.
        advertise_host: None leaves it to the node to find its own address.
        events: how much of what applications tell is kept.
    """

    mesh: str
    node: str
    mode: Mode
    capabilities: tuple[str, ...]
    nats_servers: tuple[str, ...]
    embedded: bool
    nats_port: int
    nats_host: str
    nats_dir: Path | None
    leaf: bool
    leaf_port: int
    nats_cluster: tuple[ClusterNode, ...]
    nats_external: tuple[str, ...]
    nats_user: str | None
    nats_password: Secret | None
    nats_token: Secret | None
    nats_creds: Path | None
    nats_nkey_seed: Path | None
    nats_tls_ca: Path | None
    nats_tls_cert: Path | None
    nats_tls_key: Path | None
    http_host: str
    http_port: int
    http_token: Secret | None
    agent_url: str | None
    insecure_http: bool
    ca_passphrase: Secret | None
    ca_urls: tuple[str, ...]
    lease_ttl_s: int
    reconcile_s: int
    dns_port: int
    dns_ttl_s: int
    dns_negative_ttl_s: int
    command_checks: bool
    containers: str
    announce_s: float
    advertise_host: str | None
    data_dir: Path
    host_root: Path
    tls_dir: Path
    accept_unsigned: bool
    bridge_announce: bool
    stream_max_age_s: int
    stream_max_bytes: int
    events: Retention
    tailscale_authkey: Secret | None
    tailscale: tailnet.TailscaleSettings

    def __post_init__(self) -> None:
        """Raises `ConfigError` where settings do not go together."""
        if self.leaf:
            _check_leaf(self)

    @property
    def secured(self) -> bool:
        """Whether the NATS server runs on this host and asks everybody for a certificate of the mesh."""
        return self.nats_dir is not None or (self.embedded and not is_loopback(self.nats_host))

    @property
    def owns_cluster(self) -> bool:
        """Whether this node makes the mesh's CA where several hosts begin with a cluster: the first named."""
        return bool(self.nats_cluster) and self.nats_cluster[0].name == self.node

    @property
    def visits_hub(self) -> bool:
        """Whether this node works alone, and follows the NATS of the rest of the mesh while it is reached."""
        return self.mode == "standalone" and self.nats_servers == self.nats_external

    @property
    def mesh_tls(self) -> bool:
        """Whether this node logs in to NATS with its identity: TLS is asked for, and no other login set."""
        others = (self.nats_tls_ca, self.nats_tls_cert, self.nats_creds, self.nats_nkey_seed)
        logins = (self.nats_user, self.nats_password, self.nats_token)
        return self.nats_servers[0].startswith("tls://") and not any((*others, *logins))


def load(environ: Mapping[str, str], cwd: Path) -> Config:
    """Returns the settings in `environ`, and in the `env.shared` of `cwd` where that has none.

    Raises:
        ConfigError: if a value cannot be used; names the variable, the value and what is allowed.
    """
    values = Values(environ, cwd)
    node = values.node()
    mode = cast("Mode", values.choice("SERVICE_MODE", "docked", "standalone"))
    return Config(
        mesh=values.checked("PMOVES_MESH_NAME", parse_label),
        node=node,
        mode=mode,
        capabilities=values.checked("NODE_CAPABILITIES", _capabilities),
        **_nats(values, mode, node),
        http_host=values.checked("SERVICE_REGISTRY_HOST", parse_host),
        http_port=values.integer("SERVICE_REGISTRY_PORT", 0, 65535),
        http_token=values.secret("SERVICE_REGISTRY_TOKEN"),
        agent_url=values.agent_url("SERVICE_REGISTRY_URL"),
        insecure_http=values.choice("PMOVES_INSECURE_HTTP", "0", "1") == "1",
        ca_passphrase=values.secret("MESH_PASSPHRASE"),
        ca_urls=values.ca_urls("PMOVES_CA_URL"),
        lease_ttl_s=values.integer("PMOVES_LEASE_TTL_S", 2, 300),
        reconcile_s=values.integer("PMOVES_RECONCILE_S", 1, 86400),
        dns_port=values.integer("PMOVES_DNS_PORT", 0, 65535),
        dns_ttl_s=values.integer("PMOVES_DNS_TTL", 0, 86400),
        dns_negative_ttl_s=values.integer("PMOVES_DNS_NEGATIVE_TTL", 0, 3600),
        command_checks=values.choice("PMOVES_COMMAND_CHECKS", "0", "1") == "1",
        containers=values.checked("PMOVES_CONTAINERS", _socket),
        announce_s=values.seconds("ANNOUNCE_SEC", 1, 3600),
        advertise_host=values.advertise_host(),
        data_dir=values.directory("PMOVES_DATA_DIR"),
        host_root=values.directory("PMOVES_HOST_ROOT"),
        tls_dir=values.directory("PMOVES_TLS_DIR"),
        accept_unsigned=values.choice("PMOVES_UNSIGNED", "reject", "accept") == "accept",
        bridge_announce=values.choice("PMOVES_BRIDGE_ANNOUNCE", "0", "1") == "1",
        stream_max_age_s=values.integer("PMOVES_STREAM_MAX_AGE_S", 60, 10 * 365 * 86400),
        stream_max_bytes=values.integer("PMOVES_STREAM_MAX_BYTES", 1 << 20, 1 << 50),
        events=_retention(values),
        tailscale_authkey=values.secret("TAILSCALE_AUTHKEY"),
        tailscale=tailnet.read(values),
    )


def _nats(values: Values, mode: Mode, node: str) -> dict[str, Any]:
    """Returns the fields that say where NATS is, and who this node is there."""
    nats_port = values.integer("PMOVES_NATS_PORT", 1, 65535)
    nats_host = values.checked("PMOVES_NATS_HOST", parse_host)
    nats_dir = values.path("PMOVES_NATS_DIR")
    servers, credentials = values.servers("NATS_URL", Credentials(None, None, None))
    secured = nats_dir is not None or not is_loopback(nats_host)
    own_server = f"{'tls' if secured else 'nats'}://127.0.0.1:{nats_port}"
    external, credentials = values.servers("NATS_EXTERNAL_URL", credentials)
    leaf = values.choice("PMOVES_LEAF", "0", "1") == "1"
    if leaf and set(servers) <= {f"nats://{host}:{nats_port}" for host in ("127.0.0.1", "localhost")}:
        servers = ()  # that is where the services of this host are to go
    cluster = clustering.read(values, node)
    if cluster:
        _check_cluster(nats_host, nats_dir)
    # A standalone node follows the mesh's NATS where that is reached, and works alone where it is not.
    used = () if cluster else servers or (external if mode == "standalone" else ())
    # Its own server first, and those of the others where that is away.
    others = [f"tls://{at(one.address, nats_port)}" for one in cluster if one.name != node]
    return {
        "nats_servers": used or tuple(dict.fromkeys((own_server, *others))),
        "embedded": not used and nats_dir is None,
        "nats_port": nats_port,
        "nats_host": nats_host,
        "nats_dir": nats_dir,
        "leaf": leaf,
        "leaf_port": values.integer("PMOVES_LEAF_PORT", 0, 65535),
        "nats_cluster": cluster,
        "nats_external": external,
        "nats_user": values.text("NATS_USER") or credentials.user,
        "nats_password": values.secret("NATS_PASSWORD") or credentials.password,
        "nats_token": values.secret("NATS_TOKEN") or credentials.token,
        "nats_creds": values.path("NATS_CREDS"),
        "nats_nkey_seed": values.path("NATS_NKEY_SEED"),
        "nats_tls_ca": values.path("NATS_TLS_CA"),
        "nats_tls_cert": values.path("NATS_TLS_CERT"),
        "nats_tls_key": values.path("NATS_TLS_KEY"),
    }


def _check_leaf(config: Config) -> None:
    needed = ""
    if not config.visits_hub or config.nats_dir is not None:
        needed = "it needs SERVICE_MODE=standalone and NATS_EXTERNAL_URL, and no other server in NATS_URL"
    elif not config.mesh_tls:
        needed = "it needs a NATS_EXTERNAL_URL that begins with tls://, and no login but this node's identity"
    elif config.leaf_port == 0:
        needed = "it needs PMOVES_LEAF_PORT to be the port at which the hub takes leaf nodes"
    elif len(config.node) > LEAF_NODE_LENGTH_MAX:
        needed = f"it needs a MESH_HOSTNAME of at most {LEAF_NODE_LENGTH_MAX} characters"
    if needed:
        raise ConfigError("PMOVES_LEAF", "1", needed)


def _check_cluster(nats_host: str, nats_dir: Path | None) -> None:
    """Refuses a server that others cannot reach, or that is another agent's."""
    if is_loopback(nats_host):
        problem = f"with {clustering.SETTING} must be an address that the others reach, or 0.0.0.0"
        raise ConfigError("PMOVES_NATS_HOST", nats_host, problem)
    if nats_dir is not None:
        problem = f"with {clustering.SETTING} must be unset: a guest's server is another agent's"
        raise ConfigError("PMOVES_NATS_DIR", str(nats_dir), problem)


def is_loopback(host: str) -> bool:
    """Returns whether an address to listen on is reached from this host alone."""
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _capabilities(text: str, name: str) -> tuple[str, ...]:
    return parse_capabilities([item for item in text.split(",") if item.strip()], name)


def _retention(values: Values) -> Retention:
    return Retention(
        max_age_s=values.integer("PMOVES_EVENTS_MAX_AGE_S", 60, 10 * 365 * 86400),
        max_bytes=values.integer("PMOVES_EVENTS_MAX_BYTES", 1 << 20, 1 << 50),
    )


def _socket(text: str, name: str) -> str:
    if text.startswith("/") or text.lower() in {"", "off"}:
        return text if text.startswith("/") else text.lower()
    raise InvalidFieldError(name, "must be the path of a socket, from / on, or off")
