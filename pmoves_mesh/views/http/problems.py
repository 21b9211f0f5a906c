"""What went wrong, as HTTP says it: the only place where an error becomes a status.

Source: RFC 9457.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import UNSET

from pmoves_mesh.errors import (
    CapacityError,
    InvalidFieldError,
    LogUnavailable,
    MeshError,
    NotFoundError,
    NothingKnownError,
    NotOwnerError,
    ReplicaBehindError,
    StoreError,
    WriteRefusedError,
)
from pmoves_mesh.views.http.answers import encode
from pmoves_mesh.views.http.inputs import BodyNotJsonError
from pmoves_mesh.views.http.shapes import Problem

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1

_FAULT: Final = "this agent has a fault; its log says more"
_STORE: Final = "the local database cannot be read or written; the agent's log says more"

_log: Final = structlog.get_logger(__name__)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a route raises into a problem; what nobody foresaw is logged, and not shown."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _of_protocol(error)
    except MeshError as error:
        problem = of_error(error)
        if problem.status == 500 or isinstance(error, StoreError):
            _log.exception("request not served", method=request.method, path=request.path)
        return respond(problem)
    except ConnectionError:
        raise  # the client is gone
    except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
        _log.exception("request failed", method=request.method, path=request.path)
        return respond(problem_of(500, _FAULT))


def of_error(error: MeshError) -> Problem:
    """Returns an error as a problem."""
    text = str(error)
    match error:
        case BodyNotJsonError():
            problem = problem_of(400, text, field=error.field)
        case InvalidFieldError():
            problem = problem_of(422, text, field=error.field)
        case NotFoundError():
            problem = problem_of(404, text)
        case NotOwnerError():
            problem = problem_of(409, text, nodes=error.nodes)
        case WriteRefusedError():
            problem = problem_of(401 if error.token_helps else 403, text)
        case CapacityError():
            # Not 429: asking slower does not help, deregistering does. Source: RFC 4918 section 11.5.
            problem = problem_of(507, text)
        case ReplicaBehindError():
            problem = problem_of(503, text, position=error.position)
        case LogUnavailable() | NothingKnownError():
            problem = problem_of(503, text)
        case StoreError():
            problem = problem_of(503, _STORE)
        case _:
            problem = problem_of(500, _FAULT)
    return problem


def problem_of(
    status: int,
    detail: str,
    *,
    field: str | None = None,
    nodes: tuple[str, ...] = (),
    position: int | None = None,
) -> Problem:
    """Returns a problem; what is None or empty is left out."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        field=UNSET if field is None else field,
        nodes=nodes or UNSET,
        position=UNSET if position is None else position,
    )


def respond(problem: Problem) -> web.Response:
    """Returns a problem as the answer to a request."""
    response = web.Response(status=problem.status, body=encode(problem), content_type=PROBLEM_JSON)
    if problem.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if problem.status == 503:
        response.headers[hdrs.RETRY_AFTER] = str(RETRY_AFTER_S)
    if problem.status in {408, 413}:
        response.force_close()  # what else the client still sends is not read
    return response


def _of_protocol(error: web.HTTPException) -> web.Response:
    """Returns what aiohttp or a route says of the request itself as a problem."""
    usual = f"{error.status}: {error.reason}"
    detail = error.text if error.text and error.text != usual else error.reason
    response = respond(problem_of(error.status, detail))
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response
