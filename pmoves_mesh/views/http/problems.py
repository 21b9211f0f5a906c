"""What went wrong, as HTTP says it: the only place where an error becomes a status.

Source: RFC 9457.
"""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import UNSET

from pmoves_mesh.core.history import HistoryBusyError
from pmoves_mesh.core.moments import BeforeHistoryError
from pmoves_mesh.errors import (
    CapacityError,
    CertificateRequestRejected,
    EnrolmentRefusedError,
    InvalidFieldError,
    LogUnavailable,
    MeshError,
    NotFoundError,
    NothingKnownError,
    NotOwnerError,
    PkiError,
    RateLimitedError,
    ReplicaBehindError,
    SequenceConflict,
    ServiceForbiddenError,
    StoreError,
    WriteRefusedError,
)
from pmoves_mesh.views.http.answers import TEXT, encode
from pmoves_mesh.views.http.inputs import BodyNotJsonError
from pmoves_mesh.views.http.route import CONSUL
from pmoves_mesh.views.http.shapes import Problem

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
GONE: Final = 499
"""The status that is measured of a request whose client is gone before it is answered, as nginx counts it."""

_FAULT: Final = "this agent has a fault; its log says more"
_STORE: Final = "the local database cannot be read or written; the agent's log says more"

# Errors that need no more than a status, and perhaps the field at fault; the first that fits counts.
_PLAIN: Final[tuple[tuple[type[MeshError], int, str | None], ...]] = (
    (NotFoundError, 404, None),
    (ServiceForbiddenError, 403, "name"),
    (CertificateRequestRejected, 422, "csr"),
    (RateLimitedError, 429, None),
    # Not 429: asking slower does not help, deregistering does. Source: RFC 4918 section 11.5.
    (CapacityError, 507, None),
    (LogUnavailable, 503, None),
    (SequenceConflict, 503, None),
    (NothingKnownError, 503, None),
    (HistoryBusyError, 503, None),
    (PkiError, 503, None),
)

_log: Final = structlog.get_logger(__name__)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a route raises into a problem; what nobody foresaw is logged, and not shown."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _of_protocol(error)
        if request.path.startswith(CONSUL):
            response.body, response.content_type = (error.text or error.reason).encode(), TEXT
        return response
    except MeshError as error:
        problem = of_error(error)
        if problem.status == 500 or (problem.status == 503 and isinstance(error, StoreError | PkiError)):
            _log.exception("request not served", method=request.method, path=request.path)
        response = respond(problem, retry_after_s=_retry_after_s(error))
        return _for_consul(response, error, problem) if request.path.startswith(CONSUL) else response
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
        if isinstance(error, ConnectionError) and is_gone(request):
            return web.Response(status=GONE)  # nobody gets it, and the log is not for that
        _log.exception("request failed", method=request.method, path=request.path)
        return respond(problem_of(500, _FAULT))


def is_gone(request: web.Request) -> bool:
    """Returns whether whoever asked has closed the connection."""
    return request.transport is None or request.transport.is_closing()


def of_error(error: MeshError) -> Problem:
    """Returns an error as a problem."""
    text = str(error)
    match error:
        case BodyNotJsonError():
            problem = problem_of(400, text, field=error.field)
        case InvalidFieldError():
            problem = problem_of(422, text, field=error.field)
        case NotOwnerError():
            problem = problem_of(409, text, nodes=error.nodes)
        case WriteRefusedError():
            problem = problem_of(401 if error.token_helps else 403, text)
        case EnrolmentRefusedError():
            problem = problem_of(403, text, reason=error.reason)
        case ReplicaBehindError():
            problem = problem_of(503, text, position=error.position)
        case BeforeHistoryError():
            problem = msgspec.structs.replace(
                problem_of(410, text, field=error.field),
                from_position=error.from_position,
                from_time=error.from_time,
            )
        case StoreError():
            problem = problem_of(503, _STORE)
        case _:
            found = next(((status, field) for kind, status, field in _PLAIN if isinstance(error, kind)), None)
            problem = problem_of(found[0], text, field=found[1]) if found else problem_of(500, _FAULT)
    return problem


def problem_of(
    status: int,
    detail: str,
    *,
    field: str | None = None,
    reason: str | None = None,
    nodes: tuple[str, ...] = (),
    position: int | None = None,
) -> Problem:
    """Returns a problem; what is None or empty is left out."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        field=UNSET if field is None else field,
        reason=UNSET if reason is None else reason,
        nodes=nodes or UNSET,
        position=UNSET if position is None else position,
    )


def respond(problem: Problem, *, retry_after_s: int | None = None) -> web.Response:
    """Returns a problem as the answer to a request.

    Args:
        problem: what is said.
        retry_after_s: seconds after which asking again may help, where the status does not tell.
    """
    response = web.Response(status=problem.status, body=encode(problem), content_type=PROBLEM_JSON)
    if problem.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if problem.status == 503 or retry_after_s is not None:
        response.headers[hdrs.RETRY_AFTER] = str(retry_after_s or RETRY_AFTER_S)
    if problem.status in {408, 413}:
        response.force_close()  # what else the client still sends is not read
    return response


def _for_consul(response: web.Response, error: MeshError, problem: Problem) -> web.Response:
    """Makes a problem what Consul's clients know: plain text, and one of the statuses that it gives."""
    text = problem.detail
    match error:
        case NothingKnownError():
            response.set_status(500)
            text = "No cluster leader"
        case InvalidFieldError():
            response.set_status(400)
        case WriteRefusedError():
            response.set_status(403)
            text = f"Permission denied: {text}"
        case _:
            pass
    response.body, response.content_type = text.encode(), TEXT
    return response


def _retry_after_s(error: MeshError) -> int | None:
    return max(1, ceil(error.retry_after_s)) if isinstance(error, RateLimitedError) else None


def _of_protocol(error: web.HTTPException) -> web.Response:
    """Returns what aiohttp or a route says of the request itself as a problem."""
    usual = f"{error.status}: {error.reason}"
    detail = error.text if error.text and error.text != usual else error.reason
    response = respond(problem_of(error.status, detail))
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response
