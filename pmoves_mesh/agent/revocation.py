"""Whose certificates there are, and which of them somebody means who wants them revoked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from msgspec import Struct

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.operator import FINGERPRINTS_MAX
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import parse_label, shown, spiffe_id
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import CapacityError, InvalidFieldError, NotFoundError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.ports import Bucket

_CONNECT_S: Final = 5.0
_KINDS: Final = ("node", "service", "operator")
_PREFIX: Final = re.compile(r"\A[0-9a-f]{8,64}\Z")
_WHOLE: Final = 64


class Shown(Struct, frozen=True, kw_only=True):
    """A certificate that the mesh knows.

    Attributes:
        identity: the SPIFFE ID.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        not_after_ms: when it ends, unix milliseconds.
    """

    identity: str
    fingerprint: str
    not_after_ms: int


def run(config: Config) -> list[Shown]:
    """Returns every certificate that was shown to the mesh; blocks until they are read.

    Raises:
        LogError: if the log cannot be reached or read.
    """
    return asyncio.run(_read(config))


async def _read(config: Config) -> list[Shown]:
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_S)
        return await shown_certificates(NatsBucket(connection, topology.IDENTITIES))


async def shown_certificates(identities: Bucket) -> list[Shown]:
    """Returns every certificate in the bucket of identities; what is none is left out.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    found = [_described(entry.value) async for entry in identities.load()]
    return [one for one in found if one is not None]


def chosen(text: str, mesh: str, certificates: Iterable[Shown], now_ms: int) -> list[Shown]:
    """Returns the certificates that `text` means, those that hold longest first, at most 1000.

    Args:
        text: a fingerprint, or at least 8 hex digits of its beginning; `node/NAME`, `service/NAME`
            or `operator/NAME` for all of that identity; a bare NAME for a node's.
        mesh: the trust domain.
        certificates: every one that is known.
        now_ms: unix milliseconds; beyond 1000, only those that have ended may be left out.

    Raises:
        NotFoundError: if it means none.
        InvalidFieldError: if it may mean several identities, or is no name.
        CapacityError: if more than 1000 certificates of the identity still hold.
    """
    known = {one.fingerprint: one for one in certificates}
    by_digits = _by_digits(text, known)
    by_name = _by_name(text, mesh, known.values())
    if by_name and by_digits:
        raise InvalidFieldError(
            "name", f"{shown(text)} is both a node and a fingerprint; say node/{text.lower()}, or more digits"
        )
    found = sorted(by_name or by_digits, key=lambda one: -one.not_after_ms)
    if not found:
        raise NotFoundError(f"no certificate of {shown(text)} is known; see: pmoves-mesh certs list")
    if len(found) > FINGERPRINTS_MAX and found[FINGERPRINTS_MAX].not_after_ms > now_ms:
        raise CapacityError("certificates at once", FINGERPRINTS_MAX)
    return found[:FINGERPRINTS_MAX]


def _by_digits(text: str, known: dict[str, Shown]) -> list[Shown]:
    digits = text.strip().lower().replace(":", "")
    if not _PREFIX.match(digits):
        return []
    found = [one for name, one in known.items() if name.startswith(digits)]
    if len(found) > 1:
        raise InvalidFieldError("fingerprint", f"{shown(text)} begins {len(found)} of them; give more digits")
    if not found and len(digits) == _WHOLE:
        # One that was stolen before anybody saw it can be revoked too.
        return [Shown(identity="", fingerprint=digits, not_after_ms=0)]
    return found


def _by_name(text: str, mesh: str, known: Iterable[Shown]) -> list[Shown]:
    kind, slash, name = text.rpartition("/")
    if not slash and (":" in text or len(text) >= _WHOLE):
        return []  # no name looks like that, a fingerprint does
    if slash and kind not in _KINDS:
        raise InvalidFieldError("name", f"{shown(text)}: the kinds are {', '.join(_KINDS)}")
    wanted = spiffe_id(mesh, kind or "node", parse_label(name, "name"))
    return [one for one in known if one.identity == wanted]


def _described(der: bytes) -> Shown | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Shown(
        identity=uris[0] if uris else "",
        fingerprint=fingerprint(certificate),
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
    )
