"""How to log in to a nats-server: settings without visible secrets, files read anew at each attempt.

A renewed certificate or a replaced credentials file is therefore taken up by the next reconnect.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pmoves_mesh.core.names import JETSTREAM_API, server_name_of, spiffe_id
from pmoves_mesh.errors import ConfigError, PkiError, RightMissing
from pmoves_mesh.tls import client_context

_SCHEMES: Final = ("nats", "tls")
_PORT: Final = 4222
_SERVERS: Final = (("node", "*"), ("service", "nats"))
_NEXT_URL: Final = re.compile(r",(?=\s*[a-z]+://)")
_JWT: Final = re.compile(r"-+BEGIN NATS USER JWT-+\s+(\S+)")
_SEED: Final = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)")
_SEED_PREFIX: Final = 18 << 3


def redact(url: str) -> str:
    """Returns a NATS URL, or several with commas between, with whatever precedes `@` hidden.

    Neither a user name nor a token remains, since a URL does not say which of them it holds.
    """
    return ",".join(_redact_one(part) for part in _NEXT_URL.split(url))


def _redact_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    _, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if at else ''}{place}"


@dataclass(frozen=True, kw_only=True)
class NatsSettings:
    """Where the nats-servers are, and who we are there; its repr shows no secret.

    Attributes:
        servers: URLs (`nats://` or `tls://`) of one server or cluster; they may hold
            `user:password@` or `token@`, percent-encoded.
        name: how the server's monitoring names this connection.
        user: used with `password` where the URL has no login.
        token: likewise, in place of user and password.
        creds_path: a `.creds` file: a user JWT and its NKEY seed.
        nkey_seed_path: a file that holds an NKEY seed.
        tls_ca: the CA certificates (PEM) that the server must chain to; None takes the system's.
        tls_cert: our certificate (PEM), for mutual TLS.
        tls_key: its key (PEM); None if it is in the same file.
        tls_server: the mesh whose node the server must be, whatever the name or address that it is
            reached at; `tls_ca` and `tls_cert` are then this mesh's. None checks the host's name.
        inbox_prefix: below which answers are received.
        api_prefix: what the JetStream API's subjects begin with here.
        ordered: whether the first server is the one to begin with, rather than any.
    """

    servers: tuple[str, ...] = field(repr=False)
    name: str = "pmoves-mesh"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds_path: Path | None = None
    nkey_seed_path: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server: str | None = None
    inbox_prefix: str = "_INBOX"
    api_prefix: str = JETSTREAM_API
    ordered: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Login:
    """One server's URL without a login, and the login for it, ready for nats-py.

    Attributes:
        tls: None where TLS is not asked for; the server may still ask for it.
        tls_name: the host name that the server is asked for, where it is not the URL's.
        nkey: our public NKEY, if that is how we log in.
        sign: signs the server's nonce: base64 of an Ed25519 signature.
        jwt: returns the user JWT.
    """

    url: str
    name: str
    user: str | None = None
    password: str | None = None
    token: str | None = None
    tls: ssl.SSLContext | None = None
    tls_name: str | None = None
    inbox_prefix: str = "_INBOX"
    api_prefix: str = JETSTREAM_API
    nkey: str | None = None
    sign: Callable[[str], bytes] | None = None
    jwt: Callable[[], bytes] | None = None


def check_servers(servers: tuple[str, ...]) -> None:
    """Checks that there are servers, and that each is a NATS URL.

    Raises:
        ConfigError: if not; the error shows the URL without its login.
    """
    if not servers:
        raise ConfigError("NATS_URL", "", "one or more nats:// or tls:// URLs, with commas between")
    for server in servers:
        _split(server)


def _split(server: str) -> tuple[str, str | None, str | None]:
    """Returns the URL without a login, then the user and the password of the login."""
    text = server if "://" in server else f"nats://{server}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme not in _SCHEMES:
        raise ConfigError("NATS_URL", redact(server), "a URL such as nats://host:4222 or tls://host:4222")
    place = f"[{host}]" if ":" in host else host
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return f"{parts.scheme}://{place}:{port}", user, password


def load(settings: NatsSettings, server: str) -> Login:
    """Returns the login for one of the servers. Reads files: not for the event loop's thread.

    Raises:
        ConfigError: if the URL is none.
        RightMissing: if a file that the login needs cannot be read or used.
    """
    url, user, password = _split(server)
    token = None
    if user is None:
        user, password, token = settings.user, settings.password, settings.token
    elif password is None:
        user, token = None, user
    jwt = seed = None
    if settings.creds_path is not None:
        jwt, seed = _read_creds(settings.creds_path)
    elif settings.nkey_seed_path is not None:
        seed = _read(settings.nkey_seed_path).strip()
    nkey, sign = (None, None) if seed is None else _signer(seed, settings)
    return Login(
        url=url,
        name=settings.name,
        user=user,
        password=password,
        token=token,
        tls=_tls(settings, wanted=url.startswith("tls:")),
        tls_name=None if settings.tls_server is None else server_name_of(settings.tls_server),
        inbox_prefix=settings.inbox_prefix,
        api_prefix=settings.api_prefix,
        nkey=None if jwt is not None else nkey,
        sign=sign,
        jwt=None if jwt is None else jwt.encode,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not text"
        raise RightMissing(f"a readable file {path} ({problem})", "check its path and its owner") from None


def _read_creds(path: Path) -> tuple[str, str]:
    text = _read(path)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        raise RightMissing(
            f"a usable login in {path}", "a .creds file holds a NATS USER JWT and a USER NKEY SEED"
        )
    return jwt[1], seed[1]


def _signer(seed: str, settings: NatsSettings) -> tuple[str, Callable[[str], bytes]]:
    """Returns the public NKEY of a seed, and a function that signs with it.

    Source: NATS ADR-14 (JWT library free JWTs), NKEY encoding: base32 of prefix, key and CRC-16/XMODEM.
    """
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    body, check = raw[:-2], raw[-2:]
    if len(raw) != 36 or raw[0] & 0xF8 != _SEED_PREFIX or _crc(body) != check:
        path = settings.creds_path or settings.nkey_seed_path
        raise RightMissing(f"a usable login in {path}", "its NKEY seed (SU...) is damaged or incomplete")
    key = Ed25519PrivateKey.from_private_bytes(body[2:])
    kind = (raw[0] & 0x07) << 5 | raw[1] >> 3
    public = bytes([kind]) + key.public_key().public_bytes_raw()
    name = base64.b32encode(public + _crc(public)).decode().rstrip("=")
    return name, lambda nonce: base64.b64encode(key.sign(nonce.encode()))


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def _tls(settings: NatsSettings, *, wanted: bool) -> ssl.SSLContext | None:
    if not (wanted or settings.tls_ca or settings.tls_cert):
        return None
    try:
        if settings.tls_server is not None:
            return _peer_context(settings, settings.tls_server)
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert is not None:
            # An encrypted key fails here instead of asking a terminal for its password.
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ValueError, PkiError) as error:
        files = ", ".join(
            str(path) for path in (settings.tls_ca, settings.tls_cert, settings.tls_key) if path
        )
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RightMissing(f"usable TLS files ({files}: {problem})", "check their paths and owners") from None
    return context


def _peer_context(settings: NatsSettings, mesh: str) -> ssl.SSLContext:
    if settings.tls_ca is None:
        raise ValueError("a SPIFFE ID is worth nothing without the CA certificates of its mesh")
    allowed = tuple(spiffe_id(mesh, kind, name) for kind, name in _SERVERS)
    return client_context(settings.tls_cert, settings.tls_key, settings.tls_ca, allow=allowed)
