"""TLS between the parts of a mesh: each side shows its identity, and is let in by its SPIFFE name.

The peer's name is checked within the handshake: a connection whose peer is not on the list never
carries a byte of anybody's. There is no check of host names, because the name that counts is the
SPIFFE ID, wherever its bearer runs. A context made here takes up renewed files by itself: each
handshake uses the files as they are then, and a connection that is open goes on with what it has.

TLS 1.2 is the least that is spoken: clients of the HTTP API on older images know nothing newer,
and what Python offers of it has forward secrecy and authenticated encryption. Sessions are not
resumed by ticket, so that a certificate is verified anew with each connection.

With TLS 1.3 a client's handshake is over before the server has seen its certificate: a client that
the server refuses learns it when it first reads.

Source: SPIFFE X.509-SVID sections 2 and 5; RFC 8446 section 2.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

import structlog

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError, PeerNotAllowed, PkiError

_SCHEME: Final = "spiffe://"
_ANY: Final = "*"

_log: Final = structlog.get_logger(__name__)


def server_context(
    certificate: str | Path,
    key: str | Path,
    roots: str | Path,
    *,
    allow: Iterable[str] | None = None,
    require_client: bool = True,
) -> ssl.SSLContext:
    """Returns what a server accepts connections with.

    Args:
        certificate: path of its certificate, PEM.
        key: path of the private key, PEM, not encrypted.
        roots: path of the CA certificates that clients are verified against, PEM.
        allow: SPIFFE IDs of the clients that may connect; `*` at the end of one stands for anything.
            None lets in every identity that the roots vouch for.
        require_client: whether a client has to show a certificate. One that is shown is checked anyway.

    Raises:
        PkiError: if the files cannot be used.
        InvalidFieldError: if `allow` has an entry that is no SPIFFE ID.
    """
    terms = _Terms(
        files=(Path(certificate), Path(key)),
        roots=Path(roots),
        allow=None if allow is None else _parse_allow(allow),
        verify_mode=ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL,
    )
    return _Context(ssl.PROTOCOL_TLS_SERVER, terms)


def client_context(
    certificate: str | Path | None, key: str | Path | None, roots: str | Path, *, allow: Iterable[str]
) -> ssl.SSLContext:
    """Returns what a client connects with.

    Args:
        certificate: path of its certificate, PEM; None, with the key, for a client that shows none.
        key: path of the private key, PEM, not encrypted.
        roots: path of the CA certificates that servers are verified against, PEM.
        allow: SPIFFE IDs of the servers to talk to; `*` at the end of one stands for anything.

    Raises:
        PkiError: if the files cannot be used.
        InvalidFieldError: if `allow` has an entry that is no SPIFFE ID.
    """
    terms = _Terms(
        files=None if certificate is None or key is None else (Path(certificate), Path(key)),
        roots=Path(roots),
        allow=_parse_allow(allow),
        verify_mode=ssl.CERT_REQUIRED,
    )
    return _Context(ssl.PROTOCOL_TLS_CLIENT, terms)


def peer_id(connection: Any) -> str | None:
    """Returns the SPIFFE ID that the other side has shown, or None if it has shown none.

    Args:
        connection: an `SSLSocket`, an `SSLObject`, or a transport or stream of asyncio. Before its
            handshake and after it broke off it has no other side.
    """
    tls = _tls_of(connection)
    try:
        return _id_in(tls.getpeercert()) if tls else None
    except ValueError:
        return None


def peer_certificate(connection: Any) -> bytes | None:
    """Returns the certificate (DER) that the other side has shown; `connection` as for `peer_id`."""
    tls = _tls_of(connection)
    try:
        return tls.getpeercert(binary_form=True) if tls else None
    except ValueError:
        return None


def is_allowed(peer: str | None, allow: Iterable[str]) -> bool:
    """Returns whether a SPIFFE ID is on a list, in which `*` may end an entry."""
    return peer is not None and any(
        peer.startswith(entry[:-1]) if entry.endswith(_ANY) else peer == entry for entry in allow
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a context is made of, and whom it lets in; `allow` is None for whomever the roots vouch for."""

    files: tuple[Path, Path] | None
    roots: Path
    allow: tuple[str, ...] | None
    verify_mode: ssl.VerifyMode

    def seen(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Returns what tells one state of the files from another."""
        return tuple(map(_seen, (*(self.files or ()), self.roots)))

    def check(self, connection: _Connection) -> None:
        """Checks the name of the peer of a connection whose handshake is over.

        Raises:
            SSLCertVerificationError: if it is not one of those that are let in.
        """
        certificate = connection.getpeercert()
        if self.allow is None or not (certificate or self.verify_mode is ssl.CERT_REQUIRED):
            return
        peer = _id_in(certificate)
        if not is_allowed(peer, self.allow):
            problem = PeerNotAllowed(peer or "", self.allow)
            raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, str(problem))


class _Connection(Protocol):
    """What TLS over a socket and TLS over a pair of buffers have in common."""

    @property
    def context(self) -> ssl.SSLContext: ...

    def getpeercert(self) -> Mapping[str, Any] | None: ...


class _Object(ssl.SSLObject):
    """TLS for asyncio; a read or a write before the handshake makes it, as OpenSSL does."""

    _checked = False

    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self)
        self._checked = True

    def read(self, *args: Any, **kwargs: Any) -> Any:
        if not self._checked:
            self.do_handshake()
        return super().read(*args, **kwargs)

    def write(self, data: Any) -> int:
        if not self._checked:
            self.do_handshake()
        return super().write(data)


class _Socket(ssl.SSLSocket):
    """TLS for plain sockets; every way to receive or send goes through one of these."""

    _checked = False

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        super().do_handshake(*args, **kwargs)
        _check(self)
        self._checked = True

    def read(self, *args: Any, **kwargs: Any) -> Any:
        if not self._checked:
            self.do_handshake()
        return super().read(*args, **kwargs)

    def write(self, data: Any) -> int:
        if not self._checked:
            self.do_handshake()
        return super().write(data)

    def send(self, *args: Any, **kwargs: Any) -> int:
        if not self._checked:
            self.do_handshake()
        return super().send(*args, **kwargs)


class _Loaded(ssl.SSLContext):
    """The files as they were once; belongs to the context that hands out the latest."""

    sslobject_class = _Object
    sslsocket_class = _Socket

    def __new__(cls, origin: _Context, *_: Any) -> Self:
        return super().__new__(cls, origin.protocol)

    def __init__(self, origin: _Context, terms: _Terms) -> None:
        self.origin: Final = origin
        self.terms: Final = terms
        self.check_hostname = False
        self.verify_mode = terms.verify_mode
        self.minimum_version = ssl.TLSVersion.TLSv1_2
        self.options |= ssl.OP_NO_TICKET
        if origin.protocol is ssl.PROTOCOL_TLS_SERVER:
            self.num_tickets = 0
        if origin.alpn:
            super().set_alpn_protocols(origin.alpn)
        path = terms.roots
        try:
            self.load_verify_locations(cafile=path)
            if terms.files is not None:
                path = terms.files[0]
                self.load_cert_chain(*terms.files, password="")  # or a key that has one asks the terminal
        except (OSError, ValueError) as error:
            raise PkiError(f"{path}: cannot be used for TLS ({error.args[-1]})") from None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """As its origin's: a listening socket asks the context that it was made with."""
        return self.origin.wrap_socket(*args, **kwargs)


class _Context(ssl.SSLContext):
    """Hands each connection the files as they are now; broken ones are left until they are whole."""

    def __new__(cls, protocol: int, *_: Any) -> Self:
        return super().__new__(cls, protocol)

    def __init__(self, protocol: int, terms: _Terms) -> None:  # noqa: ARG002 - __new__ has used it
        self.check_hostname = False
        self.verify_mode = terms.verify_mode  # for those who ask; what counts is set where it is loaded
        self.alpn: list[str] = []
        self._terms: Final = terms
        self._seen = self._complained = terms.seen()
        self._loaded = _Loaded(self, terms)

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offers these protocols from the next connection on."""
        self.alpn = list(alpn_protocols)
        ssl.SSLContext.set_alpn_protocols(self._loaded, self.alpn)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Wraps buffers, with the files as they are now."""
        return self._latest().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wraps a socket, with the files as they are now."""
        return ssl.SSLContext.wrap_socket(self._latest(), *args, **kwargs)

    def _latest(self) -> _Loaded:
        seen = self._terms.seen()
        if seen == self._seen:
            return self._loaded
        try:
            self._loaded = _Loaded(self, self._terms)
            self._seen = seen
        except PkiError as error:
            if seen != self._complained:
                self._complained = seen
                _log.warning("TLS goes on with the earlier files", detail=str(error))
        return self._loaded


def _check(connection: _Connection) -> None:
    cast("_Loaded", connection.context).terms.check(connection)


def _tls_of(connection: Any) -> ssl.SSLObject | ssl.SSLSocket | None:
    ask = getattr(connection, "get_extra_info", None)
    found = connection if ask is None else ask("ssl_object")
    return found if isinstance(found, ssl.SSLObject | ssl.SSLSocket) else None


def _id_in(certificate: Mapping[str, Any] | None) -> str | None:
    """Returns the one URI name of a certificate; with none or several it is no X.509-SVID."""
    names = certificate.get("subjectAltName", ()) if certificate else ()
    uris = [str(value) for kind, value in names if kind == "URI"]
    return uris[0] if len(uris) == 1 else None


def _parse_allow(allow: Iterable[str]) -> tuple[str, ...]:
    found = tuple(allow)
    for entry in found:
        domain, slash, _ = entry.removeprefix(_SCHEME).partition("/")
        if not (entry.startswith(_SCHEME) and domain and slash) or _ANY in domain or _ANY in entry[:-1]:
            raise InvalidFieldError("allow", f"{shown(entry)} is no SPIFFE ID like spiffe://mesh/service/*")
    return found


def _seen(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
