"""What a Consul client registers, as the registration that this node makes of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from pmoves_mesh.core.check import Check
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import is_capability, parse_host, sanitise_label, shown
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.bodies import CheckWanted, ServiceWanted, check_meta
from pmoves_mesh.views.http.consul.checks import check_of, kept_check
from pmoves_mesh.views.http.consul.kept import (
    KEY,
    Kept,
    KeptCheck,
    KeptNode,
    id_of,
    instance_id_of,
    keep,
    kept_of,
)
from pmoves_mesh.views.http.consul.shapes import TaggedAddress, Weights

_EMPTY: Final = CheckWanted()
_KINDS: Final = frozenset({"", "typical"})


class Setting(Struct, frozen=True, kw_only=True):
    """Where a registration arrives.

    Attributes:
        host: this node's own address; empty while it is not known.
        names: the names of this node, which a check may ask as well.
        held: the instance as it is registered now.
        replace_checks: whether a check that the body does not name goes.
    """

    host: str
    names: Collection[str] = ()
    held: Instance | None = None
    replace_checks: bool = False


def service_id_of(wanted: ServiceWanted) -> str:
    """Returns the ID that a service is to have: its name, unless it says otherwise.

    Raises:
        InvalidFieldError: if it has neither.
    """
    found = wanted.id or wanted.name or wanted.service
    if not found.strip() or len(found) > 512 or not found.isprintable():
        raise InvalidFieldError("ID", f"{shown(found)} is not 1 to 512 printable characters")
    return found


def label_of(wanted: ServiceWanted) -> str:
    """Returns the name that a service has in the mesh, made from the one that its client gives.

    Raises:
        InvalidFieldError: if none can be made of it.
    """
    return sanitise_label(wanted.name or wanted.service, "Name")


def registration_of(wanted: ServiceWanted, at: Setting, *, outside: KeptNode | None = None) -> Registration:
    """Returns the registration that a client asks for.

    Args:
        wanted: what it sends.
        at: where it sends it.
        outside: the host outside the mesh where the service runs; None for this one.

    Raises:
        InvalidFieldError: if a field asks what cannot be had here; names it.
    """
    if wanted.kind not in _KINDS:
        raise InvalidFieldError("Kind", f"{shown(wanted.kind)} is nothing that this mesh has")
    check_meta(wanted.meta)
    label, service_id = label_of(wanted), service_id_of(wanted)
    address = parse_host(wanted.address, "Address") if wanted.address else ""
    host = address or (outside.address if outside else at.host)
    before = kept_of(at.held) if at.held else None
    check, named = _check(wanted, at, {host, *at.names}, before, outside=outside is not None)
    capabilities = [tag for tag in dict.fromkeys(wanted.tags) if is_capability(tag)]
    name = wanted.name or wanted.service
    kept = Kept(
        id=service_id,
        service="" if name == label else name,
        tags=() if capabilities == wanted.tags else tuple(wanted.tags),
        addressed=bool(address),
        weights=_weights(wanted),
        tagged_addresses={name: _tagged(one) for name, one in wanted.tagged_addresses.items()},
        enable_tag_override=wanted.enable_tag_override,
        check=named,
        node=outside,
    )
    place = f"{outside.name}/{service_id}" if outside else service_id
    return Registration(
        name=label,
        id=instance_id_of(place),
        host=host or UNSET,
        port=wanted.port,
        capabilities=capabilities,
        metadata={**wanted.meta, KEY: keep(kept)},
        check=check,
        health_url=UNSET if check is UNSET else None,
    )


def with_check(record: Instance, wanted: CheckWanted, names: Collection[str]) -> Registration:
    """Returns an instance's registration with a check that is registered by itself.

    Raises:
        InvalidFieldError: if it cannot be made here, or the instance has another one already.
    """
    before = kept_of(record) or Kept(id=id_of(record, None))
    check = check_of(wanted, {record.host, *names})
    named = kept_check(wanted, check, wanted.name or f"service:{before.id}", wanted.name)
    if before.check is not None and before.check.id != named.id:
        problem = f"an instance has one check here, and {shown(before.id)} has {shown(before.check.id)}"
        raise InvalidFieldError("CheckID", problem)
    kept = msgspec.structs.replace(before, check=named)
    return _changed(record, kept, check)


def without_check(record: Instance) -> Registration:
    """Returns an instance's registration without its check."""
    kept = kept_of(record)
    if kept is not None:
        kept = msgspec.structs.replace(kept, check=None)
    return _changed(record, kept, None)


def with_warning(record: Instance, named: KeptCheck, output: str, *, warns: bool) -> Registration:
    """Returns an instance's registration with what its own report said beyond well or not.

    Args:
        record: the instance.
        named: its check, as it is shown.
        output: in the service's words.
        warns: whether it reported a warning.
    """
    before = kept_of(record) or Kept(id=id_of(record, None))
    check = msgspec.structs.replace(before.check or named, warning=warns, output=output if warns else "")
    return _changed(record, msgspec.structs.replace(before, check=check), UNSET)


def _changed(record: Instance, kept: Kept | None, check: Check | UnsetType | None) -> Registration:
    metadata = {key: value for key, value in record.metadata.items() if key != KEY}
    return Registration(
        name=record.name,
        id=record.id,
        metadata=metadata if kept is None else {**metadata, KEY: keep(kept)},
        check=check,
        health_url=UNSET if check is UNSET else None,
    )


def _check(
    wanted: ServiceWanted, at: Setting, hosts: Collection[str], before: Kept | None, *, outside: bool
) -> tuple[Check | UnsetType | None, KeptCheck | None]:
    """Returns the check that is made, and how it is shown."""
    asked = [one for one in (wanted.check, *wanted.checks) if one is not None and one != _EMPTY]
    if len(asked) > 1:
        raise InvalidFieldError("Checks", f"{len(asked)} given: an instance has one check here")
    if not asked:
        if before is None or before.check is None or at.replace_checks:
            return None, None
        return UNSET, before.check
    (one,) = asked
    check = None if outside else check_of(one, hosts)
    name = wanted.name or wanted.service
    named = kept_check(one, check, f"service:{service_id_of(wanted)}", f"Service '{name}' check")
    if before is not None and before.check is not None and before.check.id == named.id:
        earlier = before.check
        if earlier.warning:
            named = msgspec.structs.replace(named, warning=True, output=earlier.output)
    return check, named


def _weights(wanted: ServiceWanted) -> Weights | None:
    given = wanted.weights
    if given is None or (given.passing, given.warning) == (1, 1):
        return None
    return Weights(passing=given.passing, warning=given.warning)


def _tagged(value: Any) -> TaggedAddress:
    """Returns a further address, which some clients send as a text."""
    if isinstance(value, str):
        return TaggedAddress(address=value)
    fields = {str(key).lower(): one for key, one in value.items()} if isinstance(value, dict) else {}
    try:
        return msgspec.convert(
            {"Address": fields.get("address", ""), "Port": fields.get("port", 0)}, TaggedAddress, strict=False
        )
    except msgspec.ValidationError as error:
        raise InvalidFieldError("TaggedAddresses", str(error)) from None
