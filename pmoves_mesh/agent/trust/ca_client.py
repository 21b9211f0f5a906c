"""Asking the host that keeps the CA, over HTTPS, which is trusted no further than it has proven.

A joining host fetches the CA's certificate over a connection that it does not trust, compares its
fingerprint with the token's, and then makes another connection that trusts that certificate alone
and whose other side must be the node that the token names. Only there does the secret travel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import aiohttp
import msgspec
from aiohttp import hdrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from pmoves_mesh import tls
from pmoves_mesh.core.names import shown, spiffe_id
from pmoves_mesh.core.trust import Trust, fingerprint
from pmoves_mesh.errors import EnrolmentRefusedError, MeshError, PkiError, RateLimitedError, UntrustedIssuer
from pmoves_mesh.pki.authority import check_authority_of
from pmoves_mesh.pki.files import write_certificates
from pmoves_mesh.pki.requests import RequestedIdentity, read_request
from pmoves_mesh.pki.tokens import JoinToken
from pmoves_mesh.ports import IssuedIdentity

TIMEOUT_S: Final = 15.0
"""How long one address may take to answer one question."""

ANSWER_BYTES_MAX: Final = 256 * 1024

_CLOSE_S: Final = 1.0
_CLOSE_POLL_S: Final = 0.01
_CHUNK_BYTES: Final = 16 * 1024
_ROOTS_MAX: Final = 16
_REASON_LENGTH_MAX: Final = 64
_PROBLEM_LENGTH_MAX: Final = 300
_RETRY_AFTER_S: Final = 10.0

_T = TypeVar("_T")


class MeshRoots(Struct, frozen=True, kw_only=True):
    """What `GET /api/trust` says; proven by nothing but its fingerprints.

    Attributes:
        mesh: the trust domain.
        roots: the CA certificates, PEM, the issuing one first.
    """

    mesh: str
    roots: tuple[str, ...]


class _Problem(Struct, frozen=True):
    """An RFC 9457 problem; `reason` is the word that an `EnrolmentRefusedError` carries."""

    title: str = ""
    detail: str = ""
    reason: str = ""


class Holder(NamedTuple):
    """The files of an identity, to be shown to the other side."""

    certificate: Path
    key: Path


class Reply(NamedTuple):
    """What was answered, whatever it is."""

    status: int
    raw: bytes
    etag: str
    retry_after: str


async def fetch_roots(url: str) -> MeshRoots:
    """Returns what the host at `url`, whoever that is, says the mesh's CA certificates are.

    Args:
        url: `https://host:port`.

    Raises:
        PkiError: if nothing usable is answered within 15 s.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with _session(context) as session:
        return _decoded(url, await _ask(session, "GET", f"{url}/api/trust"), MeshRoots)


async def join(token: JoinToken, csr: str) -> IssuedIdentity:
    """Returns the certificate that a token is good for, and the mesh's settings.

    The addresses in the token are tried in turn, until one answers as the CA that the token names.

    Args:
        token: the token.
        csr: PKCS #10, PEM, for the node that this host wants to be.

    Raises:
        EnrolmentRefusedError: if the CA says no, or `wrong_ca` if none that answers is the right one.
        RateLimitedError: if the CA says not now.
        PkiError: if none answers.
    """
    requested = read_request(csr, token.mesh)
    body = {"token": token.id, "secret": token.secret, "csr": csr}
    problems: list[PkiError] = []
    for url in token.urls:
        try:
            root = _pinned(url, token, await fetch_roots(url))
            allow = (spiffe_id(token.mesh, "node", token.issuer),)
            async with trusting((root,), allow) as session:
                answer = await _ask(session, "POST", f"{url}/api/enrol", body)
            return _joined(url, answer, token.mesh, requested, root)
        except EnrolmentRefusedError as error:
            if error.reason != "wrong_ca":
                raise
            problems.append(error)
        except PkiError as error:
            problems.append(error)
    raise _worst(problems)


async def renew(
    urls: Sequence[str], roots: Sequence[x509.Certificate], mesh: str, csr: str, certificate: str
) -> IssuedIdentity:
    """Returns a new certificate in the place of one that ends, or has ended.

    No certificate is shown, because it may have ended: the request's signature is the proof. The
    answer may come from any node of the mesh, and is believed only if `roots` vouch for it.

    Args:
        urls: where the CA answers, `https://host:port` each.
        roots: the CA certificates that this host trusts.
        mesh: the trust domain.
        csr: PKCS #10, PEM, for the same identity and with the same key as before.
        certificate: the one to be replaced, PEM.

    Raises:
        EnrolmentRefusedError: if the CA says no.
        RateLimitedError: if the CA says not now.
        PkiError: if none answers, or what it gives is not what was asked for.
    """
    body = {"certificate": certificate, "csr": csr}
    return await _first(urls, roots, mesh, "/api/renew", body)


async def certify(
    urls: Sequence[str], roots: Sequence[x509.Certificate], mesh: str, csr: str, holder: Holder
) -> IssuedIdentity:
    """Returns the certificate of a service, for which the node or operator that asks vouches.

    Args:
        urls: where the CA answers, `https://host:port` each.
        roots: the CA certificates that this host trusts.
        mesh: the trust domain.
        csr: PKCS #10, PEM, for the service.
        holder: the files of the identity of whoever asks, PEM.

    Raises:
        EnrolmentRefusedError: if the CA says no.
        RateLimitedError: if the CA says not now.
        PkiError: if none answers, or what it gives is not what was asked for.
    """
    body = {"name": read_request(csr, mesh).name, "csr": csr}
    return await _first(urls, roots, mesh, "/api/certificates", body, holder)


async def _first(
    urls: Sequence[str],
    roots: Sequence[x509.Certificate],
    mesh: str,
    path: str,
    body: dict[str, str],
    holder: Holder | None = None,
) -> IssuedIdentity:
    """Returns the first good answer; a refusal is one, and ends the search."""
    problems: list[PkiError] = []
    requested = read_request(body["csr"], mesh)
    allow = (spiffe_id(mesh, "node", "*"),)
    async with trusting(roots, allow, holder) as session:
        for url in urls:
            try:
                raw = await _ask(session, "POST", f"{url}{path}", body)
                return _checked(url, _decoded(url, raw, IssuedIdentity), requested, Trust(mesh, roots))
            except EnrolmentRefusedError:
                raise
            except PkiError as error:
                problems.append(error)
    raise _worst(problems)


def _worst(problems: list[PkiError]) -> PkiError:
    """Returns the problem that says most: another CA than the right one outranks silence."""
    if not problems:
        return PkiError("no address of the CA is known: set PMOVES_CA_URL")
    for problem in problems:
        if isinstance(problem, EnrolmentRefusedError):
            return problem
    return problems[0] if len(problems) == 1 else PkiError("; ".join(map(str, problems)))


def _pinned(url: str, token: JoinToken, answer: MeshRoots) -> x509.Certificate:
    """Returns the CA certificate that the token names, out of those that were answered."""
    for pem in answer.roots[:_ROOTS_MAX]:
        root = _certificate(url, pem)
        if fingerprint(root) == token.ca:
            return root
    raise EnrolmentRefusedError(
        "wrong_ca", f"{url} is not of mesh {token.mesh}: it has another CA than the token"
    )


def _joined(
    url: str, raw: bytes, mesh: str, requested: RequestedIdentity, pinned: x509.Certificate
) -> IssuedIdentity:
    """Returns what the CA itself answered, which may name further CA certificates of the mesh."""
    answer = _decoded(url, raw, IssuedIdentity)
    roots = [_certificate(url, pem) for pem in answer.roots[:_ROOTS_MAX]]
    if pinned not in roots:
        raise PkiError(f"{url} answered without the CA certificate that it was found by")
    for root in roots:
        check_authority_of(mesh, root)
    return _checked(url, answer, requested, Trust(mesh, roots))


def _checked(url: str, answer: IssuedIdentity, requested: RequestedIdentity, trust: Trust) -> IssuedIdentity:
    """Returns an answer, once it is known to be a certificate for the key and the name asked for."""
    certificate = _certificate(url, answer.certificate)
    try:
        signer = trust.admit(certificate.public_bytes(Encoding.DER))
    except UntrustedIssuer as error:
        raise PkiError(f"{url} gave a certificate that this host does not trust: {error}") from None
    asked = (requested.kind, requested.name, requested.public_key)
    if (signer.kind, signer.name, signer.public_key) != asked:
        raise PkiError(f"{url} gave a certificate that was not asked for: it is that of {signer.id}")
    return answer


@asynccontextmanager
async def trusting(
    roots: Iterable[x509.Certificate], allow: Iterable[str], holder: Holder | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Gives a session that talks only to whom `allow` names and `roots` vouch for."""
    with tempfile.TemporaryDirectory(prefix="pmoves-mesh-") as directory:
        path = Path(directory) / "roots.crt"
        write_certificates(path, roots)
        certificate, key = holder or (None, None)
        context = tls.client_context(certificate, key, path, allow=allow)
        async with _session(context) as session:
            yield session


@asynccontextmanager
async def _session(context: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    """Gives a session whose connections are closed when it ends, not some time after it."""
    sockets: list[socket.socket] = []

    def make(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        sockets.append(made)
        return made

    connector = aiohttp.TCPConnector(ssl=context, force_close=True, socket_factory=make)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield session
    finally:
        await _close(sockets)


async def _close(sockets: Sequence[socket.socket]) -> None:
    """Ends connections that TLS would keep until the other side says goodbye too; waits at most 1 s."""
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            while any(one.fileno() >= 0 for one in sockets):  # noqa: ASYNC110 - a socket tells nobody
                await asyncio.sleep(_CLOSE_POLL_S)


async def _ask(
    session: aiohttp.ClientSession, method: str, url: str, body: dict[str, str] | None = None
) -> bytes:
    """Returns the body of a good answer.

    Raises:
        EnrolmentRefusedError: if it is a refusal.
        RateLimitedError: if it is one for the moment.
        PkiError: if it is anything else, or nothing comes in time.
    """
    origin = url.rpartition("/api/")[0]
    answer = await exchange(session, method, url, body)
    if answer.status not in {200, 201}:
        raise problem_of(origin, answer)
    return answer.raw


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: dict[str, str] | None = None,
    *,
    known: str = "",
    bytes_max: int = ANSWER_BYTES_MAX,
) -> Reply:
    """Returns whatever is answered.

    Args:
        session: what `trusting` gives.
        method: of HTTP.
        url: `https://host:port/api/...`.
        body: sent as JSON.
        known: the ETag of what was answered before; the status is 304 if that still holds.
        bytes_max: how long an answer may be.

    Raises:
        EnrolmentRefusedError: if the other side is not who it should be.
        PkiError: if nothing usable comes in time.
    """
    origin = url.rpartition("/api/")[0]
    headers = {hdrs.IF_NONE_MATCH: known} if known else {}
    try:
        async with session.request(method, url, json=body, headers=headers, allow_redirects=False) as answer:
            raw = b""
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                raw += chunk
                if len(raw) > bytes_max:
                    raise PkiError(f"{origin} answered more than {bytes_max} bytes")
            heads = answer.headers
            return Reply(answer.status, raw, heads.get(hdrs.ETAG, ""), heads.get(hdrs.RETRY_AFTER, ""))
    except TimeoutError:
        raise PkiError(f"{origin} did not answer within {TIMEOUT_S:.0f} s") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise EnrolmentRefusedError(
            "wrong_ca", f"{origin} is not who it should be: {_reason(error.certificate_error)}"
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise PkiError(f"{origin} cannot be reached ({_reason(error)})") from None


def problem_of(origin: str, answer: Reply) -> MeshError:
    """Returns what an RFC 9457 problem means; of another answer, its status."""
    status, retry_after = answer.status, answer.retry_after
    try:
        problem = msgspec.json.decode(answer.raw, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    text = " ".join((problem.detail or problem.title).split())[:_PROBLEM_LENGTH_MAX]
    if status == 429:
        wait_s = float(retry_after) if retry_after.isdigit() else _RETRY_AFTER_S
        return RateLimitedError("requests to the CA", wait_s)
    if 400 <= status < 500 and text and problem.reason:
        return EnrolmentRefusedError(problem.reason[:_REASON_LENGTH_MAX], text)
    return PkiError(f"{origin} answered with HTTP status {status}{': ' if text else ''}{text}")


def _decoded(url: str, raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PkiError(f"what answers at {url} is not a pmoves-mesh agent that keeps the CA") from None


def _certificate(url: str, pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError:
        raise PkiError(f"{url} answered {shown(pem)} in the place of a certificate") from None


def _reason(error: BaseException) -> str:
    """Returns what went wrong in a connection, in as few words as say it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message if hasattr(error, "verify_message") else str(error.args[-1])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
