"""The answers of `/catalog` and `/health`, each found in what the catalogue holds.

Every answer comes with its look: something that changes when, and only when, a client would see a
difference. Positions in the stream, and in whose words a check reports, are none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import Struct

from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.catalogue import Catalogue
from pmoves_mesh.views.http.consul.filter import compile_filter
from pmoves_mesh.views.http.consul.instances import look_of
from pmoves_mesh.views.http.consul.question import Question
from pmoves_mesh.views.http.consul.rows import Row
from pmoves_mesh.views.http.consul.shapes import (
    CatalogShape,
    CheckShape,
    HealthShape,
    NodeServices,
    NodeShape,
    ServiceShape,
)

_Item = TypeVar("_Item")

_STATES: Final = frozenset({"any", "passing", "warning", "critical"})


class Found(NamedTuple):
    """An answer: what it says, and how it looks."""

    body: Any
    look: Hashable


Gather = Callable[[Catalogue, Question], Found]
"""Finds an answer in what the replica holds now."""


def health_of_service(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `health/service/:s`."""
    rows = _ordered(_fitting(catalogue.of_service(asked.subject), asked), asked)
    kept = [row for row in rows if row.is_passing or not asked.passing]
    kept = _filtered(kept, asked, HealthShape, lambda row: row.health)
    return Found([row.health for row in kept], tuple(row.look for row in kept))


def catalog_of_service(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `catalog/service/:s`; health is none of its affairs."""
    rows = _ordered(_fitting(catalogue.of_service(asked.subject), asked), asked)
    kept = _filtered(list(rows), asked, CatalogShape, catalog_shape)
    return Found([catalog_shape(row) for row in kept], tuple(row.plain_look for row in kept))


def services(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `catalog/services`: the tags of each service."""
    rows = list(_fitting(catalogue.every(), asked))
    found: dict[str, dict[str, None]] = {}
    for row in _filtered(rows, asked, CatalogShape, catalog_shape):
        found.setdefault(row.service.service, {}).update(dict.fromkeys(row.service.tags))
    named = {name: sorted(tags) for name, tags in sorted(found.items())}
    return Found(named, tuple((name, tuple(tags)) for name, tags in named.items()))


def nodes(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `catalog/nodes`."""
    found = [node for node in catalogue.nodes() if _has_meta(node, asked)]
    found.sort(key=lambda node: node.node != asked.near)
    found = _filtered(found, asked, NodeShape, lambda node: node)
    return Found(found, look_of(found))


def node(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `catalog/node/:n`: null for a node that is not there."""
    name = asked.subject.lower()
    shape = next((one for one in catalogue.nodes() if one.node.lower() == name), None)
    if shape is None:
        return Found(None, None)
    rows = _filtered(list(catalogue.of_node(name)), asked, ServiceShape, lambda row: row.service)
    body = NodeServices(node=shape, services={row.service.id: row.service for row in rows})
    return Found(body, look_of([shape, *body.services.values()]))


def checks_of_service(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `health/checks/:s`."""
    rows = _ordered(_fitting(catalogue.of_service(asked.subject), asked), asked)
    return _checks(((check for check in row.checks if check.service_id) for row in rows), asked)


def checks_of_node(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `health/node/:n`."""
    name = asked.subject.lower()
    rows = catalogue.of_node(name)
    own = catalogue.node_checks(name)
    return _checks((own, *((check for check in row.checks if check.service_id) for row in rows)), asked)


def checks_in_state(catalogue: Catalogue, asked: Question) -> Found:
    """Finds the answer of `health/state/:state`.

    Raises:
        InvalidFieldError: if there is no such state.
    """
    state = check_state(asked.subject)
    by_node: dict[str, list[CheckShape]] = {}
    for shape in catalogue.nodes():
        if _has_meta(shape, asked):
            by_node[shape.node] = list(catalogue.node_checks(shape.node))
    for row in catalogue.every():
        if row.node.node in by_node:
            by_node[row.node.node] += (check for check in row.checks if check.service_id)
    ordered = sorted(by_node, key=lambda name: name != asked.near)
    return _checks(
        ((check for check in by_node[name] if state in {"any", check.status}) for name in ordered), asked
    )


def check_state(text: str) -> str:
    """Returns the state that is asked for.

    Raises:
        InvalidFieldError: if there is no such state.
    """
    if text not in _STATES:
        raise InvalidFieldError("state", f"is none of {', '.join(sorted(_STATES))}")
    return text


def catalog_shape(row: Row) -> CatalogShape:
    """Returns an instance and its node as one flat object."""
    node, service = row.node, row.service
    return CatalogShape(
        id=node.id,
        node=node.node,
        address=node.address,
        datacenter=node.datacenter,
        tagged_addresses=node.tagged_addresses,
        node_meta=node.meta,
        service_kind=service.kind,
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        service_address=service.address,
        service_tagged_addresses=service.tagged_addresses,
        service_weights=service.weights,
        service_meta=service.meta,
        service_port=service.port,
        service_enable_tag_override=service.enable_tag_override,
        create_index=service.create_index,
        modify_index=service.modify_index,
    )


def _checks(groups: Iterable[Iterable[CheckShape]], asked: Question) -> Found:
    found = [check for group in groups for check in group]
    found = _filtered(found, asked, CheckShape, lambda check: check)
    return Found(found, look_of(found))


def _fitting(rows: Iterable[Row], asked: Question) -> Iterator[Row]:
    """Yields the rows that have the tags and the metadata that are asked for."""
    if not (asked.tags or asked.node_meta):
        yield from rows
        return
    for row in rows:
        tags = {tag.lower() for tag in row.service.tags} if asked.tags else set()
        if all(tag in tags for tag in asked.tags) and _has_meta(row.node, asked):
            yield row


def _has_meta(node: NodeShape, asked: Question) -> bool:
    return all(node.meta.get(key) == value for key, value in asked.node_meta)


def _ordered(rows: Iterable[Row], asked: Question) -> list[Row]:
    return sorted(rows, key=lambda row: (row.node.node != asked.near, row.node.node, row.service.id))


def _filtered(
    items: list[_Item], asked: Question, shape: type[Struct], shown: Callable[[_Item], Any]
) -> list[_Item]:
    """Returns what a filter leaves of some items, each looked at as it is shown."""
    if not asked.filter:
        return items
    fits = compile_filter(asked.filter, shape)
    return [item for item in items if fits(shown(item))]
