"""The texts of the settings, and how each kind of them is read; which there are, `config` says.

The environment goes before `env.shared`, and that before the default. An empty value counts as unset. A
value that cannot be used is one line, which never contains a secret.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from pmoves_mesh.core.names import parse_host, sanitise_label
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


class Credentials(NamedTuple):
    """What server URLs say about who connects."""

    user: str | None
    password: Secret | None
    token: Secret | None


class Values:
    """The texts of the settings, and how each kind of them is read."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        """Takes the environment, and the `env.shared` of a folder.

        Raises:
            ConfigError: if that cannot be read.
        """
        self._sources = (environ, _read_file(cwd / ENV_FILE))
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

    def servers(self, name: str, known: Credentials) -> tuple[tuple[str, ...], Credentials]:
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


def _read_file(path: Path) -> Mapping[str, str | None]:
    """Returns the variables of a settings file as they stand; none if there is no such file."""
    if not path.exists():
        return {}
    try:
        return dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(ENV_FILE, str(path), f"must be a readable text file ({reason})") from None


def _parse_server(name: str, text: str, item: str) -> tuple[str, Credentials]:
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
        return server, Credentials(None, None, None)
    if parts.password is None:
        return server, Credentials(None, None, Secret(user))
    return server, Credentials(user, Secret(unquote(parts.password)), None)


def _redacted(text: str) -> str:
    """Returns a list of URLs without anything that may be a secret: only what follows the last `@`."""
    shown = f"***@{text.rpartition('@')[2]}" if "@" in text else text
    return shown[:_SHOWN_LENGTH_MAX]
