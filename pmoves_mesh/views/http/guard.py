"""Who may write: this host's programs, whoever has the token or a certificate, no web page from elsewhere.

A browser sends `Origin` with every write of a page, and a page that rebinds its own name to this
host sends that name as `Host`: such a name is none of ours. Both are looked at before what a
browser adds by itself counts for anything, and that includes a client certificate.

Source: RFC 6750 (bearer tokens), RFC 6454 (the web origin).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from pmoves_mesh.core.limits import allows
from pmoves_mesh.core.trust import Signer
from pmoves_mesh.errors import WriteRefusedError
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.peers import is_loopback, signer_of
from pmoves_mesh.views.http.route import CONSUL

_WRITER: Final = web.RequestKey("writer", Signer)
_BEARER: Final = "bearer "
_CONSUL_HEADER: Final = "X-Consul-Token"
_LOCAL_NAME: Final = "localhost"


def check_may_write(request: web.Request) -> None:
    """Checks that a request may change something; what exactly, `check_service` says.

    Raises:
        WriteRefusedError: if it may not; says why, and whether a token would help.
    """
    facade = request.app[FACADE]
    _check_origin(request)
    if _bears(request, facade.token):
        return
    if not is_loopback(request.remote or ""):
        signer = signer_of(request)
        if signer is None:
            raise _needs_more(request)
        request[_WRITER] = signer
    _check_host(request)


def check_service(request: web.Request, service: str) -> None:
    """Checks that a writer's certificate, if that is what lets it write, is good for this service.

    A service may change what bears its own name, or what its certificate allows.

    Raises:
        WriteRefusedError: if it is not.
    """
    signer = request.get(_WRITER)
    if signer is None or (signer.kind == "service" and service == signer.name):
        return
    if signer.kind == "service" and not signer.allow:
        allowed: tuple[str, ...] = (signer.name,)
    else:
        allowed = signer.allow
    if not allows(allowed, service):
        problem = f"{signer.id} may not change service {service}: it may change {', '.join(allowed)}"
        raise WriteRefusedError(problem, token_helps=False)


def check_node(request: web.Request) -> None:
    """Checks that a writer's certificate, if that is what lets it write, is good for the whole node.

    Raises:
        WriteRefusedError: if it is a service's, or limited to some services.
    """
    signer = request.get(_WRITER)
    if signer is not None and (signer.kind == "service" or signer.allow):
        problem = f"{signer.id} may not change a whole node: its certificate is for services"
        raise WriteRefusedError(problem, token_helps=False)


def check_runs_here(request: web.Request) -> None:
    """Checks that a request comes from this host: nobody else may have a command run here.

    Raises:
        WriteRefusedError: if it does not.
    """
    if not is_loopback(request.remote or ""):
        raise WriteRefusedError(
            "a check that runs a command is registered from its own host", token_helps=False
        )


def check_is_private(request: web.Request) -> None:
    """Checks that nobody on the way can read or change what a request for an identity says.

    Raises:
        WriteRefusedError: if it comes from a web page, or from another host without TLS.
    """
    _check_origin(request)
    if not (request.secure or is_loopback(request.remote or "")):
        raise WriteRefusedError("an identity is given over TLS only: use https", token_helps=False)


def check_may_vouch(request: web.Request) -> None:
    """Checks that somebody vouches for a service that asks for an identity; who, `voucher_of` says.

    That is a node or an operator by its certificate, or a program of this host that knows the
    secret which this node keeps in a file for its own programs.

    Raises:
        WriteRefusedError: if nobody does.
    """
    facade = request.app[FACADE]
    check_is_private(request)
    local = is_loopback(request.remote or "")
    # Both are compared, so that the time tells nothing of which of them failed.
    known = [_bears(request, secret) for secret in (facade.local_secret, facade.token)]
    if local and any(known):
        return
    signer = signer_of(request)
    if signer is None:
        needed = "the secret in agent.secret, or a client certificate" if local else "a client certificate"
        raise WriteRefusedError(f"an identity for a service needs {needed}", token_helps=local)
    _check_host(request)
    if signer.kind == "service":
        raise WriteRefusedError(f"{signer.id} is a service, and vouches for nobody", token_helps=False)
    request[_WRITER] = signer


def voucher_of(request: web.Request) -> str:
    """Returns the SPIFFE ID of whoever vouches for a service; empty where that is this very node."""
    signer = request.get(_WRITER)
    return "" if signer is None else signer.id


def _needs_more(request: web.Request) -> WriteRefusedError:
    helps = request.app[FACADE].token is not None
    known = "its token" if helps else "a token, and this agent has none: set SERVICE_REGISTRY_TOKEN"
    shown = "a client certificate of the mesh, or " if request.secure else ""
    return WriteRefusedError(f"a write from another host needs {shown}{known}", token_helps=helps)


def _check_origin(request: web.Request) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and not _is_own_page(origin, request):
        raise WriteRefusedError("a web page from elsewhere may not write here", token_helps=False)


def _is_own_page(origin: str, request: web.Request) -> bool:
    """Returns whether a page was served under the name that is asked now, and as safely."""
    try:
        page = urlsplit(origin)
    except ValueError:
        return False
    return page.netloc == request.host and (page.scheme == "https" or not request.secure)


def _check_host(request: web.Request) -> None:
    if not _is_own_name(_hostname(request.host), request.app[FACADE].names):
        raise WriteRefusedError(f"{request.host[:200]!r} is not a name of this host", token_helps=False)


def _bears(request: web.Request, token: str | None) -> bool:
    """Returns whether a request carries a token, in a time that does not tell how much of it is right."""
    if not token:
        return False
    return any(
        hmac.compare_digest(given.encode(errors="replace"), token.encode()) for given in _tokens(request)
    )


def _tokens(request: web.Request) -> Iterator[str]:
    """Yields the tokens of a request; Consul's clients have two more ways to send one."""
    given = request.headers.get(hdrs.AUTHORIZATION, "")
    if given[: len(_BEARER)].lower() == _BEARER:
        yield given[len(_BEARER) :].strip()
    if request.path.startswith(CONSUL):
        yield from (request.headers.get(_CONSUL_HEADER, ""), request.query.get("token", ""))


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_own_name(name: str, names: frozenset[str]) -> bool:
    """Returns whether a `Host` can only mean this host: an address cannot be rebound, a name can."""
    if name == _LOCAL_NAME or name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
