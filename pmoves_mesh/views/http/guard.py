"""Who may write: programs on this host, whoever has the token, and never a web page from elsewhere."""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from pmoves_mesh.errors import WriteRefusedError
from pmoves_mesh.views.http.facade import FACADE

_BEARER: Final = "bearer "
_LOCAL_NAME: Final = "localhost"


def check_may_write(request: web.Request) -> None:
    """Checks that a request may change something.

    A browser sends `Origin` with every write of a page, and a page that rebinds its own name to
    this host sends that name as `Host`: such a name is none of ours.

    Raises:
        WriteRefusedError: if it may not; says why, and whether a token would help.

    Source: RFC 6750 (bearer tokens), RFC 6454 (the web origin).
    """
    facade = request.app[FACADE]
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise WriteRefusedError("a web page from elsewhere may not write here", token_helps=False)
    if facade.token and _has_token(request, facade.token):
        return
    if not _is_loopback(request.remote or ""):
        helps = facade.token is not None
        known = "its token" if helps else "a token, and this agent has none: set SERVICE_REGISTRY_TOKEN"
        raise WriteRefusedError(f"a write from another host needs {known}", token_helps=helps)
    if not _is_own_name(_hostname(request.host), facade.names):
        raise WriteRefusedError(f"{request.host[:200]!r} is not a name of this host", token_helps=False)


def _has_token(request: web.Request, token: str) -> bool:
    given = request.headers.get(hdrs.AUTHORIZATION, "")
    if given[: len(_BEARER)].lower() != _BEARER:
        return False
    return hmac.compare_digest(given[len(_BEARER) :].strip().encode(errors="replace"), token.encode())


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


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
