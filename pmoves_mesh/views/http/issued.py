"""The route at which the other hosts of a cluster are told whose certificates hold."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from pmoves_mesh.errors import NotFoundError, WriteRefusedError
from pmoves_mesh.store.issued import IssuedList
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.peers import signer_of
from pmoves_mesh.views.http.route import Route
from pmoves_mesh.views.http.shapes import Problem


async def issued(request: web.Request) -> Answer:
    """Answers `GET /api/trust/issued`; whoever has it already is told so by its ETag."""
    listed = request.app[FACADE].issued
    if listed is None:
        raise NotFoundError("this node does not keep the mesh's CA")
    return Answer(parts=[encode(await listed())])


def check_is_node(request: web.Request) -> None:
    """Checks that a node of the mesh asks, by its certificate.

    Raises:
        WriteRefusedError: if it is anybody else.
    """
    signer = signer_of(request)
    if signer is None or signer.kind != "node":
        raise WriteRefusedError("only a node of the mesh is told, by its certificate", token_helps=False)


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/trust/issued",
        handle=issued,
        summary="Tell a node whose certificates hold, where the mesh's CA is.",
        answers={200: IssuedList} | dict.fromkeys((403, 404), Problem),
        guard=check_is_node,
    ),
)
