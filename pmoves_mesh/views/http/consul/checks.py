"""Consul's checks as this mesh makes them.

What a check of Consul's may ask and none of ours can is refused by its name: a service would be taken
for well, or for ill, by a check that asks something else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from pmoves_mesh.core.check import (
    Check,
    CommandCheck,
    GrpcCheck,
    HttpCheck,
    TcpCheck,
    TtlCheck,
    check_url,
)
from pmoves_mesh.core.names import shown
from pmoves_mesh.core.target import canonical, is_loopback
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.bodies import CheckWanted
from pmoves_mesh.views.http.consul.durations import parse_duration
from pmoves_mesh.views.http.consul.kept import KeptCheck
from pmoves_mesh.views.http.consul.shapes import CheckStatus

_INTERVAL_DEFAULT_S: Final = 10.0
_INTERVAL_MIN_S: Final = 1.0
_INTERVAL_MAX_S: Final = 3600.0
_REMOVE_MAX_S: Final = 1e9
_TTL_MAX_S: Final = 86400.0
_TIMES_MAX: Final = 10
_REFUSED: Final = ("udp", "h2_ping", "alias_node", "alias_service", "os_service", "docker_container_id")


def check_of(wanted: CheckWanted, hosts: Collection[str]) -> Check | None:
    """Returns the check that a client asks for; None if it only names a status.

    Args:
        wanted: what it asks for.
        hosts: the names and addresses of the instance's host, which alone may be asked.

    Raises:
        InvalidFieldError: if no check here asks that.
    """
    for field in _REFUSED:
        if getattr(wanted, field):
            raise InvalidFieldError(field.replace("_", ""), "no check of that kind is made here")
    command = wanted.args or wanted.script_args or (["sh", "-c", wanted.script] if wanted.script else [])
    given = [kind for kind in (wanted.http, wanted.tcp, wanted.grpc, command, wanted.ttl) if kind]
    if len(given) > 1:
        raise InvalidFieldError("check", "asks for more than one of HTTP, TCP, GRPC, Args and TTL")
    check: Check | None = None
    if wanted.http:
        check = _http(wanted, hosts)
    elif wanted.tcp:
        check = TcpCheck(port=_port(wanted.tcp, "tcp", hosts), **_pace(wanted))
    elif wanted.grpc:
        check = _grpc(wanted, hosts)
    elif command:
        check = _command(wanted, command)
    elif wanted.ttl:
        check = TtlCheck(ttl_s=min(max(parse_duration(wanted.ttl, "ttl"), 1.0), _TTL_MAX_S))
    after_s = parse_duration(wanted.deregister_critical_service_after, "deregistercriticalserviceafter")
    if check is None or after_s <= 0:
        return check
    return msgspec.structs.replace(check, remove_after_s=min(max(after_s, 1.0), _REMOVE_MAX_S))


def kept_check(wanted: CheckWanted, check: Check | None, usual_id: str, usual_name: str) -> KeptCheck:
    """Returns what is kept of a check beside the check itself.

    Raises:
        InvalidFieldError: if its first status is none.
    """
    kind = "" if check is None else str(msgspec.to_builtins(check)["type"])
    check_id = wanted.check_id or wanted.id or usual_id
    return KeptCheck(
        id=check_id,
        name=wanted.name or usual_name,
        notes=wanted.notes,
        type={"command": "script"}.get(kind, kind),
        status=parse_status(wanted.status) if wanted.status else None,
        output=wanted.output[:4096],
    )


def parse_status(text: str) -> CheckStatus:
    """Returns the status of a check.

    Raises:
        InvalidFieldError: if it is none.
    """
    match text.strip().lower():
        case "passing":
            return "passing"
        case "warning":
            return "warning"
        case "critical":
            return "critical"
        case _:
            raise InvalidFieldError("status", f"{shown(text)} is none of passing, warning and critical")


def _http(wanted: CheckWanted, hosts: Collection[str]) -> HttpCheck:
    if wanted.method.upper() not in {"", "GET"}:
        raise InvalidFieldError(
            "method", f"{shown(wanted.method)} is not GET, with which checks are made here"
        )
    for field in ("header", "body"):
        if getattr(wanted, field):
            raise InvalidFieldError(field, "no check with one is made here")
    check_url(wanted.http, "http")
    _check_host(urlsplit(wanted.http).hostname or "", "http", hosts)
    return HttpCheck(url=wanted.http, **_pace(wanted))


def _grpc(wanted: CheckWanted, hosts: Collection[str]) -> GrpcCheck:
    if wanted.grpc_use_tls:
        raise InvalidFieldError("grpcusetls", "gRPC is asked without TLS here")
    place, _, service = wanted.grpc.partition("/")
    return GrpcCheck(port=_port(place, "grpc", hosts), service=service[:256], **_pace(wanted))


def _command(wanted: CheckWanted, command: list[str]) -> CommandCheck:
    try:
        return msgspec.convert({"type": "command", "command": command, **_pace(wanted)}, CommandCheck)
    except msgspec.ValidationError as error:
        raise InvalidFieldError("args", str(error)) from None


def _port(place: str, field: str, hosts: Collection[str]) -> int:
    """Returns the port of `host:port`, if the host is the instance's own.

    Raises:
        InvalidFieldError: if it is another's, or there is no port.
    """
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not port:
        raise InvalidFieldError(field, f"{shown(place)} is not host:port")
    if host:
        _check_host(host, field, hosts)
    return port


def _check_host(host: str, field: str, hosts: Collection[str]) -> None:
    name = canonical(host)
    if not is_loopback(name) and name not in set(map(canonical, hosts)):
        raise InvalidFieldError(field, f"{shown(host)} is neither the service's own host nor this one")


def _pace(wanted: CheckWanted) -> dict[str, Any]:
    """Returns how often a check is made; what is out of bounds is brought within them."""
    interval_s = parse_duration(wanted.interval, "interval") or _INTERVAL_DEFAULT_S
    interval_s = min(max(interval_s, _INTERVAL_MIN_S), _INTERVAL_MAX_S)
    timeout_s = parse_duration(wanted.timeout, "timeout")
    pace: dict[str, Any] = {"interval_s": interval_s}
    if 0 < timeout_s < interval_s:
        pace["timeout_s"] = timeout_s
    if wanted.success_before_passing > 0:
        pace["rise"] = min(wanted.success_before_passing, _TIMES_MAX)
    if wanted.failures_before_critical > 0:
        pace["fall"] = min(wanted.failures_before_critical, _TIMES_MAX)
    return pace
