"""Join tokens: the one line that lets another host into the mesh, once.

A token says where the CA is and how to recognise it, so that its bearer need trust nothing but
the token. The CA keeps only a hash of the secret in it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from pmoves_mesh.core.names import parse_label
from pmoves_mesh.errors import EnrolmentRefusedError, InvalidFieldError

PREFIX: Final = "pmoves1-"
URLS_MAX: Final = 8

_TEXT_LENGTH_MAX: Final = 4096
_CHECKSUM_BYTES: Final = 4
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_PART: Final = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")
_HASHED: Final = b"pmoves-mesh join token\n"


@dataclass(frozen=True, kw_only=True)
class JoinToken:
    """What a host needs to know to join.

    Attributes:
        mesh: the trust domain.
        urls: where the CA answers, `https://host:port` each.
        ca: SHA-256 of the CA's certificate (DER), in hex: the one that vouches for `issuer`.
        issuer: the node that keeps the CA.
        id: the public part, under which the CA knows the token.
        secret: the part that proves it.
        node: the node that it is for; empty for whoever bears it.
    """

    mesh: str
    urls: tuple[str, ...]
    ca: str
    issuer: str
    id: str
    secret: str = field(repr=False)
    node: str = ""

    def encode(self) -> str:
        """Returns the token as one line, with a checksum against what copying does to it."""
        ca = bytes.fromhex(self.ca)
        parts = _Content(self.mesh, self.urls, ca, self.issuer, self.id, self.secret, self.node)
        content = msgspec.msgpack.encode(parts)
        return _line(content + _checksum(content))


class _Content(Struct, array_like=True, frozen=True):
    """A token's content in its order; what is added later stands last and has a default."""

    mesh: str
    urls: tuple[str, ...]
    ca: bytes
    issuer: str
    id: str
    secret: str
    node: str = ""


def new_token(mesh: str, urls: tuple[str, ...], ca: str, issuer: str, node: str = "") -> JoinToken:
    """Returns a new token, whose secret nobody can guess; the arguments are as in `JoinToken`."""
    return JoinToken(
        mesh=mesh,
        urls=urls,
        ca=ca,
        issuer=issuer,
        id=secrets.token_hex(_ID_BYTES),
        secret=secrets.token_urlsafe(_SECRET_BYTES),
        node=node,
    )


def decode(text: str) -> JoinToken:
    """Returns the token in a line; blanks and line breaks that came in between do no harm.

    Raises:
        EnrolmentRefusedError: `token_damaged`, if it is none.
    """
    line = "".join(text.split())
    if not line.startswith(PREFIX) or len(line) > _TEXT_LENGTH_MAX:
        raise _damaged(f"a token is one line that begins with {PREFIX}")
    try:
        encoded = line.removeprefix(PREFIX).encode("ascii")
        raw = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _damaged("it has characters that no token has") from None
    content, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(content) or _line(raw) != line:
        raise _damaged("a part of it is missing or changed: copy the whole line")
    try:
        return _checked(msgspec.msgpack.decode(content, type=_Content))
    except (msgspec.DecodeError, InvalidFieldError, ValueError):
        raise _damaged("its content cannot be read: was it made by another release?") from None


def hashed(secret: str) -> str:
    """Returns what the CA keeps of a token's secret: SHA-256, in hex.

    The secret has 256 random bits, so there is nothing for a slow hash to protect.
    """
    return hashlib.sha256(_HASHED + secret.encode()).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Returns whether `stored` is the hash of a secret, in a time that tells nothing about either."""
    return hmac.compare_digest(hashed(secret).encode(), stored.encode())


def _checked(content: _Content) -> JoinToken:
    """Returns the token, once every part is known to be what it should; raises if one is not."""
    if len(content.ca) != hashlib.sha256().digest_size or not 1 <= len(content.urls) <= URLS_MAX:
        raise ValueError
    if not _PART.match(content.id) or not _PART.match(content.secret):
        raise ValueError
    for url in content.urls:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.port is None or parts.path:
            raise ValueError
    return JoinToken(
        mesh=parse_label(content.mesh, "mesh"),
        urls=content.urls,
        ca=content.ca.hex(),
        issuer=parse_label(content.issuer, "issuer"),
        id=content.id,
        secret=content.secret,
        node=parse_label(content.node, "node") if content.node else "",
    )


def _line(raw: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_CHECKSUM_BYTES]


def _damaged(problem: str) -> EnrolmentRefusedError:
    return EnrolmentRefusedError("token_damaged", f"the token is damaged: {problem}")
