"""What a client asks: the parameters that the reading routes share."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.filter import compile_filter

_OFF: Final = frozenset({"false", "0", "f", "no"})
_ON: Final = frozenset({"", "true", "1", "t", "yes"})


class Question(Struct, frozen=True, kw_only=True):
    """What one answer depends on, and nothing else.

    Attributes:
        subject: the service, node or state that the path names; empty if it names none.
        tags: all must be there, however they are spelled.
        node_meta: what the node's metadata must say.
        passing: whether all checks must pass.
        near: the node whose instances come first; empty for no order of that kind.
        filter: an expression of the filter language; empty for none.
    """

    subject: str = ""
    tags: tuple[str, ...] = ()
    node_meta: tuple[tuple[str, str], ...] = ()
    passing: bool = False
    near: str = ""
    filter: str = ""


def parse_question(request: web.Request, shape: type[Struct], *, mesh: str, node: str) -> Question:
    """Returns what a request asks.

    Args:
        request: the request.
        shape: the type of the answer's items, which a filter speaks of.
        mesh: its name.
        node: this node.

    Raises:
        InvalidFieldError: if a parameter has a value that it cannot have.
        HTTPException: 500 if another datacenter is asked for, as Consul answers.
    """
    check_datacenter(request.query.get("dc", ""), mesh)
    near = request.query.get("near", "").strip().lower()
    return Question(
        subject=request.match_info.get("subject", ""),
        tags=tuple(tag.lower() for tag in request.query.getall("tag", ()) if tag),
        node_meta=tuple(_pair(value) for value in request.query.getall("node-meta", ()) if value),
        passing=parse_flag(request, "passing"),
        near=node if near == "_agent" else near,
        filter=parse_filter(request, shape),
    )


def parse_filter(request: web.Request, shape: type[Struct]) -> str:
    """Returns the filter of a request, which speaks of items of one type; empty for none.

    Raises:
        InvalidFieldError: if it cannot be understood.
    """
    text = request.query.get("filter", "")
    if not text.strip():
        return ""
    compile_filter(text, shape)
    return text


def parse_flag(request: web.Request, name: str) -> bool:
    """Returns whether a flag is set: naming it without a value sets it, leaving it out does not.

    Raises:
        InvalidFieldError: if it is neither true nor false.
    """
    value = request.query.get(name, "false").strip().lower()
    if value not in _ON | _OFF:
        raise InvalidFieldError(name, f"{shown(value)} is neither true nor false")
    return value in _ON


def check_datacenter(name: str, mesh: str) -> None:
    """Checks that a datacenter is this mesh: each mesh is one, and knows of no other.

    Raises:
        HTTPException: 500 if it is not, as Consul answers.
    """
    if name.strip().lower() not in {"", mesh}:
        raise web.HTTPInternalServerError(text="No path to datacenter")


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition(":")
    return key, value
