"""The routes through which identities are given: to a host that joins, to one that renews, to a service.

What lets a caller in is what it brings: a token, the key of the certificate to be replaced, or
somebody who vouches for it. Who signs, and by which rules, is the enroller's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web

from pmoves_mesh.core.names import parse_label
from pmoves_mesh.errors import NotFoundError
from pmoves_mesh.ports import Enroller, Enrolment, IssuedIdentity, Renewal, ServiceRequest
from pmoves_mesh.views.http import inputs
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.guard import voucher_of
from pmoves_mesh.views.http.shapes import CertificateWanted, EnrolmentRequest, RenewalRequest

BODY_BYTES_MAX: Final = 64 * 1024

_ANSWER_S: Final = 30.0


async def enrol(request: web.Request) -> Answer:
    """Answers `POST /api/enrol`."""
    enroller = _enroller(request)
    body = inputs.decode(await inputs.read_body(request, BODY_BYTES_MAX), EnrolmentRequest)
    wanted = Enrolment(token=body.token, secret=body.secret, csr=body.csr, remote=request.remote or "")
    return await _issued(enroller.enrol(wanted))


async def renew(request: web.Request) -> Answer:
    """Answers `POST /api/renew`."""
    enroller = _enroller(request)
    body = inputs.decode(await inputs.read_body(request, BODY_BYTES_MAX), RenewalRequest)
    wanted = Renewal(certificate=body.certificate, csr=body.csr, remote=request.remote or "")
    return await _issued(enroller.renew(wanted))


async def certify(request: web.Request) -> Answer:
    """Answers `POST /api/certificates`."""
    enroller = _enroller(request)
    body = inputs.decode(await inputs.read_body(request, BODY_BYTES_MAX), CertificateWanted)
    wanted = ServiceRequest(
        name=parse_label(body.name, "name"),
        csr=body.csr,
        requester=voucher_of(request),
        remote=request.remote or "",
    )
    return await _issued(enroller.certify(wanted))


def _enroller(request: web.Request) -> Enroller:
    enroller = request.app[FACADE].enroller
    if enroller is None:
        raise NotFoundError("this node does not keep the CA, and gives no identities")
    return enroller


async def _issued(answer: Awaitable[IssuedIdentity]) -> Answer:
    try:
        async with asyncio.timeout(_ANSWER_S):
            return Answer(parts=[encode(await answer)])
    except TimeoutError:
        raise web.HTTPServiceUnavailable(text=f"the CA did not answer within {_ANSWER_S:.0f} s") from None
