"""What a route is: whom it answers, with what, and what `/openapi.json` says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from aiohttp import web
from msgspec import Struct

from pmoves_mesh.views.http.answers import Answer
from pmoves_mesh.views.http.limits import Cost

CONSUL: Final = "/v1/"
"""What the paths of Consul's API begin with."""


class Parameter(Struct, frozen=True, kw_only=True):
    """What a caller may put into the query or a header, or must put into the path.

    Attributes:
        type: of the value.
    """

    name: str
    where: Literal["query", "path", "header"] = "query"
    type: Any
    meaning: str


class Route(Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        answers: the type of the body for each status; None where it has none of ours.
        body: the type of the request's body; None if it has none.
        waits: whether `min_position` is heeded.
        guard: checks who may ask, before anything is read of the body; None lets everybody.
        cost: what a request counts as, where there are limits.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    handle: Callable[[web.Request], Awaitable[Answer | web.StreamResponse]]
    summary: str
    answers: Mapping[int, Any]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    waits: bool = False
    guard: Callable[[web.Request], None] | None = None
    cost: Cost = "read"
