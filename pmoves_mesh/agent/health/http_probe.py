"""The HTTP probe: GETs an instance's `health_url`; a 2xx passes, or what its check expects.

It asks what `core.target` allows and nothing else, whatever the URL, the name service or a redirect
says. It hands on a status or a few words of ours, never what the service said.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final, Self

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from pmoves_mesh import __version__
from pmoves_mesh.agent.health.reach import allowed_socket, not_probed, unconnected
from pmoves_mesh.core.check import HttpCheck
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.target import canonical, target_problem

BODY_BYTES_MAX: Final = 64 * 1024
REDIRECTS_MAX: Final = 3

_BUFFER_BYTES: Final = 16 * 1024
_USUAL: Final = HttpCheck()
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
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
            limit=0, force_close=True, resolver=_Resolver(), socket_factory=allowed_socket
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

    async def __call__(self, instance: Instance, check: HttpCheck = _USUAL) -> Finding:
        """Returns what the instance answers; whoever calls sets the time that it may take."""
        try:
            url = URL(check.url or instance.health_url or "")
            problem = self._problem(url, instance)
            return not_probed(problem) if problem else await self._follow(url, check)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _finding_of(error)

    def _problem(self, url: URL, instance: Instance) -> str:
        # It is the parsed URL that is judged, the very one that is asked, so that no two readings of
        # one text can differ.
        return target_problem(url.scheme, url.raw_host or "", {*self._own_hosts, canonical(instance.host)})

    async def _follow(self, url: URL, check: HttpCheck) -> Finding:
        for _ in range(1 + REDIRECTS_MAX):
            async with self._session.get(url, allow_redirects=False, ssl=self._tls(url)) as response:
                status = response.status
                location = response.headers.get("Location")
                if status not in _REDIRECTS or location is None or status == check.expect_status:
                    return _judge(status, await _read(response), check)
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


def _judge(status: int, body: bytes, check: HttpCheck) -> Finding:
    """Returns whether an answer is what is expected; what it says is not handed on."""
    passed = 200 <= status < 300 if check.expect_status is None else status == check.expect_status
    if not passed and check.expect_status is not None:
        return Finding(passed=False, output=f"HTTP {status}, not {check.expect_status}")
    if passed and check.expect_body is not None and check.expect_body.encode() not in body:
        return Finding(passed=False, output=f"HTTP {status} without the expected text")
    return Finding(passed=passed, output=f"HTTP {status}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Returns an answer's body up to the bound; it is read to its end, so that one that breaks off fails."""
    body = bytearray()
    while left := BODY_BYTES_MAX - len(body):
        chunk = await response.content.read(min(left, _BUFFER_BYTES))
        if not chunk:
            break
        body += chunk
    return bytes(body)


def _difference(url: URL, target: URL) -> str:
    """Returns in what a redirect leaves the place that was asked, or nothing if it does not."""
    if target.scheme != url.scheme:
        return "scheme"
    if canonical(target.raw_host or "") != canonical(url.raw_host or ""):
        return "host"
    return "" if target.port == url.port else "port"


def _finding_of(error: Exception) -> Finding:
    """Returns what an error means, in our own words: those of the error may quote the service."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Finding(passed=False, output="its host has no address", answered=False)
    for kind, output in _MEANINGS:
        if isinstance(error, kind):
            return Finding(passed=False, output=output)
    if isinstance(error, aiohttp.ClientConnectorError):
        return unconnected(error.os_error)
    if isinstance(error, ValueError | aiohttp.NonHttpUrlClientError):
        return not_probed("its URL cannot be read")
    return Finding(passed=False, output="broke off its answer")


def _pem(roots: Iterable[x509.Certificate]) -> str:
    return "".join(root.public_bytes(Encoding.PEM).decode() for root in roots)
