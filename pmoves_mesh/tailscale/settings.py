"""The settings of Tailscale, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.values import Values

NetworkMode = Literal["tailscale", "nats", "both"]
"""What joins the hosts: Tailscale, whatever network NATS is reached on, or both."""

_TAG: Final = re.compile(r"\Atag:[A-Za-z][A-Za-z0-9-]{0,49}\Z")
_NO_TAGS: Final = "none"


@dataclass(frozen=True, kw_only=True)
class TailscaleSettings:
    """How this host is to be part of a tailnet.

    Attributes:
        mode: with `nats` Tailscale is left alone.
        login_server: of Headscale; None is Tailscale's own.
        tags: such as `tag:pmoves`.
        accept_routes: whether to use the networks that others advertise.
        advertise_routes: networks that others reach through this host.
        authkey_file: a file with the key.
        timeout_s: how long to wait until it is up.
    """

    mode: NetworkMode = "both"
    login_server: str | None = None
    tags: tuple[str, ...] = ()
    accept_routes: bool = True
    advertise_routes: tuple[str, ...] = ()
    authkey_file: Path | None = None
    timeout_s: int = 300


def read(values: Values) -> TailscaleSettings:
    """Returns the settings that the environment or `env.shared` has.

    Raises:
        ConfigError: if one cannot be used.
    """
    accepts = values.choice("TAILSCALE_ACCEPT_ROUTES", "1", "0", "true", "false")
    return TailscaleSettings(
        mode=cast("NetworkMode", values.choice("MESH_NETWORK_MODE", "tailscale", "nats", "both")),
        login_server=values.checked("TAILSCALE_LOGIN_SERVER", parse_login_server),
        tags=values.checked("TAILSCALE_TAGS", parse_tags),
        accept_routes=accepts in {"1", "true"},
        advertise_routes=values.checked("TAILSCALE_ADVERTISE_ROUTES", parse_routes),
        authkey_file=values.path("TAILSCALE_AUTHKEY_FILE"),
        timeout_s=values.integer("TAILSCALE_TIMEOUT", 1, 3600),
    )


def parse_tags(text: str, field: str) -> tuple[str, ...]:
    """Returns a comma list of tags; `none` is none.

    Raises:
        InvalidFieldError: if one is no tag.
    """
    if text.strip().lower() == _NO_TAGS:
        return ()
    tags = _items(text)
    for tag in tags:
        if not _TAG.match(tag):
            raise InvalidFieldError(field, f"must be a comma list of tag:name, or none, not {shown(tag)}")
    return tags


def parse_routes(text: str, field: str) -> tuple[str, ...]:
    """Returns a comma list of networks such as 192.168.1.0/24; raises as `parse_tags`."""
    try:
        return tuple(str(ip_network(item)) for item in _items(text))
    except ValueError as error:
        raise InvalidFieldError(
            field, f"must be a comma list of networks such as 192.168.1.0/24 ({error})"
        ) from None


def parse_login_server(text: str, field: str) -> str | None:
    """Returns the address of a control server, or None if there is none; raises as `parse_tags`."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.username
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in text):
        raise InvalidFieldError(field, "must be https://host[:port], or http://")
    return text.rstrip("/")


def _items(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
