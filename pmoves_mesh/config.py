"""The settings: environment over `env.shared` over default, read once into one frozen `Config`.

An empty value counts as unset. A value that cannot be used stops the start with one line, which never
contains a secret.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from pmoves_mesh.core.application import Retention
from pmoves_mesh.core.names import Mode, parse_capabilities, parse_host, parse_label, sanitise_label
from pmoves_mesh.errors import ConfigError, InvalidFieldError
from pmoves_mesh.settings import SETTINGS

ENV_FILE: Final = "env.shared"

_T = TypeVar("_T")
_SHOWN_LENGTH_MAX: Final = 120
_AGENT_PORT: Final = 8100
_URL_PORTS: Final[Mapping[str, int]] = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
_URL_RULE: Final = (
    "a comma list of [nats|tls|ws|wss]://[user:password@|token@]host[:port], "
    "with special characters of user and password percent-encoded"
)


_DEFAULTS: Final = {setting.name: setting.default for setting in SETTINGS}


class Secret:
    """Text that is shown as `***` wherever it is printed, logged or put into an error."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """Returns the text itself."""
        return self._text


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting, checked. Paths are absolute; server URLs never hold a user or a secret.

    Attributes:
        embedded: whether the NATS server of `nats_servers` is ours to run.
        nats_port: of the embedded server.
        nats_host: the address on which the embedded server listens.
        nats_dir: of the embedded server that another agent of this host runs; None for our own.
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
    announce_s: float
    advertise_host: str | None
    data_dir: Path
    tls_dir: Path
    accept_unsigned: bool
    bridge_announce: bool
    stream_max_age_s: int
    stream_max_bytes: int
    events: Retention
    tailscale_authkey: Secret | None

    @property
    def secured(self) -> bool:
        """Whether the NATS server runs on this host and asks everybody for a certificate of the mesh."""
        return self.nats_dir is not None or (self.embedded and not is_loopback(self.nats_host))

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
    values = _Values(environ, _read_file(cwd / ENV_FILE), cwd)
    nats_port = values.integer("PMOVES_NATS_PORT", 1, 65535)
    nats_host = values.checked("PMOVES_NATS_HOST", parse_host)
    nats_dir = values.path("PMOVES_NATS_DIR")
    servers, credentials = values.servers("NATS_URL", _Credentials(None, None, None))
    scheme = "nats" if nats_dir is None and is_loopback(nats_host) else "tls"
    external, credentials = values.servers("NATS_EXTERNAL_URL", credentials)
    mode = cast("Mode", values.choice("SERVICE_MODE", "docked", "standalone"))
    # A standalone node follows the mesh's NATS where that is reached, and works alone where it is not.
    used = servers or (external if mode == "standalone" else ())
    return Config(
        mesh=values.checked("PMOVES_MESH_NAME", parse_label),
        node=values.node(),
        mode=mode,
        capabilities=values.checked("NODE_CAPABILITIES", _capabilities),
        nats_servers=used or (f"{scheme}://127.0.0.1:{nats_port}",),
        embedded=not used and nats_dir is None,
        nats_port=nats_port,
        nats_host=nats_host,
        nats_dir=nats_dir,
        nats_external=external,
        nats_user=values.text("NATS_USER") or credentials.user,
        nats_password=values.secret("NATS_PASSWORD") or credentials.password,
        nats_token=values.secret("NATS_TOKEN") or credentials.token,
        nats_creds=values.path("NATS_CREDS"),
        nats_nkey_seed=values.path("NATS_NKEY_SEED"),
        nats_tls_ca=values.path("NATS_TLS_CA"),
        nats_tls_cert=values.path("NATS_TLS_CERT"),
        nats_tls_key=values.path("NATS_TLS_KEY"),
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
        announce_s=values.seconds("ANNOUNCE_SEC", 1, 3600),
        advertise_host=values.advertise_host(),
        data_dir=values.directory("PMOVES_DATA_DIR"),
        tls_dir=values.directory("PMOVES_TLS_DIR"),
        accept_unsigned=values.choice("PMOVES_UNSIGNED", "reject", "accept") == "accept",
        bridge_announce=values.choice("PMOVES_BRIDGE_ANNOUNCE", "0", "1") == "1",
        stream_max_age_s=values.integer("PMOVES_STREAM_MAX_AGE_S", 60, 10 * 365 * 86400),
        stream_max_bytes=values.integer("PMOVES_STREAM_MAX_BYTES", 1 << 20, 1 << 50),
        events=_retention(values),
        tailscale_authkey=values.secret("TAILSCALE_AUTHKEY"),
    )


def is_loopback(host: str) -> bool:
    """Returns whether an address to listen on is reached from this host alone."""
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Credentials(NamedTuple):
    """What server URLs say about who connects."""

    user: str | None
    password: Secret | None
    token: Secret | None


class _Values:
    """The texts of the settings, and how each kind of them is read."""

    def __init__(self, environ: Mapping[str, str], file: Mapping[str, str | None], cwd: Path) -> None:
        self._sources = (environ, file)
        self._cwd = cwd.absolute()

    def text(self, *names: str) -> str:
        """Returns the value of the first of `names` that is set, the environment before the file."""
        for source in self._sources:
            for name in names:
                value = (source.get(name) or "").strip()
                if value:
                    return value
        return _DEFAULTS[names[0]]

    def checked(self, name: str, parse: Callable[[str, str], _T]) -> _T:
        """Returns the value as `parse` gives it."""
        value = self.text(name)
        try:
            return parse(value, name)
        except InvalidFieldError as error:
            raise ConfigError(name, value[:_SHOWN_LENGTH_MAX], error.problem) from None

    def node(self) -> str:
        """Returns the node's name, derived from the host's name if none is set."""
        value = self.text("MESH_HOSTNAME", "NODE_NAME") or socket.gethostname()
        try:
            return sanitise_label(value, "MESH_HOSTNAME")
        except InvalidFieldError as error:
            raise ConfigError("MESH_HOSTNAME", value[:_SHOWN_LENGTH_MAX], error.problem) from None

    def advertise_host(self) -> str | None:
        """Returns the advertised address, if one is set."""
        name = "PMOVES_ADVERTISE_HOST"
        return self.checked(name, parse_host) if self.text(name) else None

    def choice(self, name: str, *allowed: str) -> str:
        """Returns the value, if it is one of those allowed, in lower case."""
        value = self.text(name).lower()
        if value not in allowed:
            raise ConfigError(name, value[:_SHOWN_LENGTH_MAX], f"must be {' or '.join(allowed)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Returns the value as a whole number within bounds."""
        value = self.text(name)
        if value.isascii() and value.isdigit() and len(value) <= 20 and low <= int(value) <= high:
            return int(value)
        raise ConfigError(name, value[:_SHOWN_LENGTH_MAX], f"must be a whole number from {low} to {high}")

    def seconds(self, name: str, low: float, high: float) -> float:
        """Returns the value as a number of seconds within bounds."""
        value = self.text(name)
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ConfigError(name, value[:_SHOWN_LENGTH_MAX], f"must be {low} to {high} seconds")
        return number

    def secret(self, name: str) -> Secret | None:
        """Returns the value as a secret, if it is set."""
        value = self.text(name)
        return Secret(value) if value else None

    def path(self, name: str) -> Path | None:
        """Returns the value as an absolute path, if it is set."""
        return self.directory(name) if self.text(name) else None

    def directory(self, name: str) -> Path:
        """Returns the value as an absolute path; `~` is the user's home."""
        value = self.text(name)
        try:
            return self._cwd / Path(value).expanduser()
        except RuntimeError as error:
            raise ConfigError(name, value[:_SHOWN_LENGTH_MAX], f"must be a path ({error})") from None

    def agent_url(self, name: str) -> str | None:
        """Returns the value as `http://host:port` or `https://host:port`, if it is set."""
        text = self.text(name)
        if not text:
            return None
        try:
            parts = urlsplit(text)
            host, port = parse_host(parts.hostname or ""), parts.port or _AGENT_PORT
        except (ValueError, InvalidFieldError):
            host, port = "", 0
        if not host or parts.scheme not in {"http", "https"} or parts.username or parts.path not in {"", "/"}:
            raise ConfigError(name, _redacted(text), "must be http://host:port or https://host:port")
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def ca_urls(self, name: str) -> tuple[str, ...]:
        """Returns the value as a list of `https://host:port`."""
        text = self.text(name)
        found = []
        for item in filter(None, map(str.strip, text.split(","))):
            try:
                parts = urlsplit(item)
                host, port = parse_host(parts.hostname or ""), parts.port or 443
            except (ValueError, InvalidFieldError):
                host, port = "", 0
            if not host or parts.scheme != "https":
                raise ConfigError(name, text[:_SHOWN_LENGTH_MAX], "must be a comma list of https://host:port")
            found.append(f"https://{f'[{host}]' if ':' in host else host}:{port}")
        return tuple(dict.fromkeys(found))

    def servers(self, name: str, known: _Credentials) -> tuple[tuple[str, ...], _Credentials]:
        """Returns the server URLs without their credentials, and `known` with these added."""
        text = self.text(name)
        servers: list[str] = []
        for item in text.split(",") if text else ():
            server, found = _parse_server(name, text, item.strip())
            if any(found):
                if any(known) and found != known:
                    raise ConfigError(name, _redacted(text), "all NATS URLs must carry the same credentials")
                known = found
            servers.append(server)
        return tuple(dict.fromkeys(servers)), known


def _retention(values: _Values) -> Retention:
    return Retention(
        max_age_s=values.integer("PMOVES_EVENTS_MAX_AGE_S", 60, 10 * 365 * 86400),
        max_bytes=values.integer("PMOVES_EVENTS_MAX_BYTES", 1 << 20, 1 << 50),
    )


def _read_file(path: Path) -> Mapping[str, str | None]:
    """Returns the variables of a settings file as they stand; none if there is no such file."""
    if not path.exists():
        return {}
    try:
        return dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(ENV_FILE, str(path), f"must be a readable text file ({reason})") from None


def _capabilities(text: str, name: str) -> tuple[str, ...]:
    return parse_capabilities([item for item in text.split(",") if item.strip()], name)


def _parse_server(name: str, text: str, item: str) -> tuple[str, _Credentials]:
    """Returns one server's URL without credentials and with its port, and the credentials."""
    refused = ConfigError(name, _redacted(text), f"must be {_URL_RULE}")
    try:
        parts = urlsplit(item if "://" in item else f"nats://{item}")
        host = parse_host(parts.hostname or "")
        usual_port = _URL_PORTS[parts.scheme]
        port = usual_port if parts.port is None else parts.port
    except (ValueError, KeyError, InvalidFieldError):
        raise refused from None
    websocket = parts.scheme in {"ws", "wss"}
    if not port or parts.query or parts.fragment or not (websocket or parts.path in {"", "/"}):
        raise refused
    path = parts.path if websocket else ""
    server = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    user = unquote(parts.username or "")
    if not user:
        return server, _Credentials(None, None, None)
    if parts.password is None:
        return server, _Credentials(None, None, Secret(user))
    return server, _Credentials(user, Secret(unquote(parts.password)), None)


def _redacted(text: str) -> str:
    """Returns a list of URLs without anything that may be a secret: only what follows the last `@`."""
    shown = f"***@{text.rpartition('@')[2]}" if "@" in text else text
    return shown[:_SHOWN_LENGTH_MAX]
