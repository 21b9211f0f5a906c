"""The HTTP probe: GETs an instance's `health_url`; a 2xx passes.

It asks what `core.target` allows and nothing else, whatever the URL, the name service or a redirect
says. It hands on a status or a few words of ours, never what the service said.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from pmoves_mesh import __version__
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.target import address_problem, canonical, target_problem

BODY_BYTES_MAX: Final = 64 * 1024
REDIRECTS_MAX: Final = 3

_BUFFER_BYTES: Final = 16 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_HEADERS: Final = {
    "User-Agent": f"pmoves-mesh/{__version__}",
    # What is compressed in 64 KiB could be anything once it is not.
    "Accept-Encoding": "identity",
}

_MEANINGS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientSSLError, "no TLS there"),
    (aiohttp.ServerDisconnectedError, "closed without an answer"),
    (aiohttp.ClientResponseError, "what it answers is not HTTP"),
)

_AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class HttpProbe:
    """Probes instances over HTTP and HTTPS; enter it before use.

    Every probe makes a connection of its own, as a new client would: what is asked is whether the
    service takes one.
    """

    def __init__(
        self, own_hosts: Iterable[str], roots: Callable[[], tuple[x509.Certificate, ...]] = tuple
    ) -> None:
        """Takes what the probe needs to know.

        Args:
            own_hosts: the names and addresses of this node.
            roots: gives the mesh's CA certificates, which are believed beside the system's.
        """
        self._own_hosts = frozenset(map(canonical, own_hosts))
        self._roots = roots
        self._trusted: tuple[x509.Certificate, ...] = ()
        self._context: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, force_close=True, resolver=_Resolver(), socket_factory=_allowed_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER_BYTES,
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def __call__(self, instance: Instance) -> Finding:
        """Returns what the instance answers; whoever calls sets the time that it may take."""
        try:
            url = URL(instance.health_url or "")
            problem = self._problem(url, instance)
            return _not_probed(problem) if problem else await self._follow(url)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _finding_of(error)

    def _problem(self, url: URL, instance: Instance) -> str:
        # It is the parsed URL that is judged, the very one that is asked, so that no two readings of
        # one text can differ.
        return target_problem(url.scheme, url.raw_host or "", {*self._own_hosts, canonical(instance.host)})

    async def _follow(self, url: URL) -> Finding:
        for _ in range(1 + REDIRECTS_MAX):
            async with self._session.get(url, allow_redirects=False, ssl=self._tls(url)) as response:
                status = response.status
                location = response.headers.get("Location")
                if status not in _REDIRECTS or location is None:
                    await _read(response)
                    return Finding(passed=200 <= status < 300, output=f"HTTP {status}")
            try:
                target = url.join(URL(location))
            except ValueError:
                return Finding(passed=False, output=f"HTTP {status}: redirects to no URL")
            if other := _difference(url, target):
                return Finding(passed=False, output=f"HTTP {status}: redirects to another {other}")
            url = target
        return Finding(passed=False, output=f"more than {REDIRECTS_MAX} redirects")

    def _tls(self, url: URL) -> ssl.SSLContext | bool:
        if url.scheme != "https":
            return True
        roots = self._roots()
        if self._context is None or roots != self._trusted:
            context = ssl.create_default_context()
            if roots:
                context.load_verify_locations(cadata=_pem(roots))
            self._context, self._trusted = context, roots
        return self._context


class _Resolver(ThreadedResolver):
    """Asks the name service, but for the one name that needs none: a slow one must not delay it."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if canonical(host) != "localhost":
            return await super().resolve(host, port, family)
        # Source: RFC 6761, section 6.3.
        return [_loopback(host, port, "127.0.0.1"), _loopback(host, port, "::1")]


def _loopback(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


def _allowed_socket(info: _AddressInfo) -> socket.socket:
    """Returns a socket for an address, once it is known which one is really connected to.

    Raises:
        PermissionError: if no probe may ask it, whatever name led there.
    """
    family, kind, protocol, _, address = info
    if problem := address_problem(address[0]):
        raise PermissionError(errno.EPERM, problem)
    return socket.socket(family, kind, protocol)


async def _read(response: aiohttp.ClientResponse) -> None:
    """Reads an answer to its end, so that one that breaks off fails, or to the bound; keeps nothing."""
    left = BODY_BYTES_MAX
    while left > 0 and (chunk := await response.content.read(min(left, _BUFFER_BYTES))):
        left -= len(chunk)


def _difference(url: URL, target: URL) -> str:
    """Returns in what a redirect leaves the place that was asked, or nothing if it does not."""
    if target.scheme != url.scheme:
        return "scheme"
    if canonical(target.raw_host or "") != canonical(url.raw_host or ""):
        return "host"
    return "" if target.port == url.port else "port"


def _not_probed(problem: str) -> Finding:
    return Finding(passed=None, output=f"not probed: {problem}")


def _finding_of(error: Exception) -> Finding:
    """Returns what an error means, in our own words: those of the error may quote the service."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Finding(passed=False, output="its host has no address", answered=False)
    for kind, output in _MEANINGS:
        if isinstance(error, kind):
            return Finding(passed=False, output=output)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unconnected(error.os_error)
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):
        return _not_probed("its URL cannot be read")
    return Finding(passed=False, output="broke off its answer")


def _unconnected(error: OSError) -> Finding:
    if error.errno == errno.ECONNREFUSED:
        return Finding(passed=False, output="refused")
    if error.errno == errno.EPERM:
        return _not_probed("its host leads to an address that must not be asked")
    if error.errno in _UNREACHABLE:
        return Finding(passed=False, output="no route to its host", answered=False)
    if isinstance(error, ConnectionError):
        return Finding(passed=False, output="broke off the connection")
    code = errno.errorcode.get(error.errno or 0, "no reason given")
    return Finding(passed=False, output=f"cannot connect ({code})", answered=False)


def _pem(roots: Iterable[x509.Certificate]) -> str:
    return "".join(root.public_bytes(Encoding.PEM).decode() for root in roots)
