"""What clients send: objects whose keys are spelled in PascalCase, in lower case or with underscores."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.inputs import BodyNotJsonError

META_KEYS_MAX: Final = 64
META_KEY_LENGTH_MAX: Final = 128
META_VALUE_LENGTH_MAX: Final = 512

_META_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_IGNORED: Final = str.maketrans("", "", "_-")
_NESTED: Final = frozenset({"check", "checks", "service", "weights", "definition"})

Duration = str | int | float

_Body = TypeVar("_Body", bound=Struct)


def _plain(name: str) -> str:
    """Returns how a field's name is compared."""
    return name.translate(_IGNORED).lower()


class _Fields(Struct, frozen=True, kw_only=True, rename=_plain):
    """An object of which only these fields are read."""


class CheckWanted(_Fields, frozen=True, kw_only=True):
    """A check, as a client asks for it; fields that would be asked for in vain are read to be refused."""

    id: str = ""
    check_id: str = ""
    name: str = ""
    notes: str = ""
    service_id: str = ""
    status: str = ""
    output: str = ""
    http: str = ""
    method: str = ""
    header: dict[str, Any] = {}
    body: str = ""
    tcp: str = ""
    udp: str = ""
    grpc: str = ""
    grpc_use_tls: bool = False
    h2_ping: str = ""
    ttl: Duration = ""
    args: list[str] = []
    script_args: list[str] = []
    script: str = ""
    docker_container_id: str = ""
    alias_node: str = ""
    alias_service: str = ""
    os_service: str = ""
    interval: Duration = ""
    timeout: Duration = ""
    deregister_critical_service_after: Duration = ""
    success_before_passing: int = 0
    failures_before_critical: int = 0
    definition: CheckWanted | None = None


class WeightsWanted(_Fields, frozen=True, kw_only=True):
    """How much traffic a service wants."""

    passing: int = 1
    warning: int = 1


class ServiceWanted(_Fields, frozen=True, kw_only=True):
    """The body of `agent/service/register`, and the `Service` of `catalog/register`.

    Attributes:
        service: the name, where the catalogue is written to.
        check: one check; `checks` takes it too.
    """

    id: str = ""
    name: str = ""
    service: str = ""
    kind: str = ""
    tags: list[str] = []
    port: int = 0
    address: str = ""
    tagged_addresses: dict[str, Any] = {}
    meta: dict[str, str] = {}
    enable_tag_override: bool = False
    weights: WeightsWanted | None = None
    check: CheckWanted | None = None
    checks: list[CheckWanted] = []


class EntityWanted(_Fields, frozen=True, kw_only=True):
    """The body of `catalog/register`."""

    node: str = ""
    address: str = ""
    datacenter: str = ""
    node_meta: dict[str, str] = {}
    service: ServiceWanted | None = None
    check: CheckWanted | None = None
    checks: list[CheckWanted] = []


class EntityUnwanted(_Fields, frozen=True, kw_only=True):
    """The body of `catalog/deregister`."""

    node: str = ""
    datacenter: str = ""
    service_id: str = ""
    check_id: str = ""


class StatusReported(_Fields, frozen=True, kw_only=True):
    """The body of `agent/check/update/:id`."""

    status: str = ""
    output: str = ""


def decode(body: bytes, shape: type[_Body]) -> _Body:
    """Returns a body as what it should be; null counts as left out, as it does to Go.

    Raises:
        BodyNotJsonError: if it is not JSON.
        InvalidFieldError: if a field has a value that it cannot have.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyNotJsonError("body", f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidFieldError("body", "is not an object")
    try:
        return msgspec.convert(_read(value), shape, strict=False)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise InvalidFieldError(place.rstrip("`") or "body", problem) from None


def check_meta(meta: dict[str, str], field: str = "Meta") -> None:
    """Checks that metadata is within Consul's own bounds.

    Raises:
        InvalidFieldError: if it is not.
    """
    if len(meta) > META_KEYS_MAX:
        raise InvalidFieldError(field, f"{len(meta)} keys, at most {META_KEYS_MAX}")
    for key, value in meta.items():
        if len(key) > META_KEY_LENGTH_MAX or not _META_KEY.fullmatch(key):
            problem = f"the key {key[:40]!r} is not 1 to {META_KEY_LENGTH_MAX} letters, digits, '-' or '_'"
            raise InvalidFieldError(field, problem)
        if len(value) > META_VALUE_LENGTH_MAX:
            raise InvalidFieldError(
                field, f"the value of {key[:40]!r} has over {META_VALUE_LENGTH_MAX} characters"
            )


def _read(value: dict[str, Any]) -> dict[str, Any]:
    """Returns an object with its keys as they are compared; what users name themselves stays as it is."""
    found: dict[str, Any] = {}
    for name, field in value.items():
        key = _plain(name)
        if field is None:
            continue
        if key in _NESTED and isinstance(field, dict):
            found[key] = _read(field)
        elif key in _NESTED and isinstance(field, list):
            found[key] = [_read(one) if isinstance(one, dict) else one for one in field]
        else:
            found[key] = field
    return found
