"""The trust of simulated hosts: the rules are the real ones, the arithmetic is cheaper.

Certificates are real, and their chains are verified for real, each once for each set of roots. A
signature is a keyed hash over the same bytes, with a key that only the identity has: it fails for
any other byte and any other signer, as ECDSA's does, and costs a twentieth.
"""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from typing import Final

import msgspec
from builders import END, MESH, Authority
from builders import Identity as IssuedIdentity
from cryptography.hazmat.primitives import serialization

from pmoves_mesh.core.trust import Signer, SignerKind, Trust, fingerprint

ROOTS: Final = 3
"""How many certificate authorities a mesh can have, one after the other."""

_YEAR: Final = dt.timedelta(days=365)


@dataclass(frozen=True)
class Identity:
    """Who a host is: can sign."""

    name: str
    issued: IssuedIdentity
    root: int

    @cached_property
    def certificate_der(self) -> bytes:
        return self.issued.der

    @cached_property
    def fingerprint(self) -> str:
        return self.issued.fingerprint

    def sign(self, statement: bytes) -> bytes:
        return _signature(self.fingerprint, statement)


class _Signer(Signer, frozen=True):
    def verifies(self, signature: bytes, statement: bytes) -> bool:
        return hmac.compare_digest(signature, _signature(self.fingerprint, statement))


class SimTrust(Trust):
    """The trust of one agent. It shares nothing with others but the arithmetic."""

    def __init__(self, roots: tuple[int, ...] = (0,)) -> None:
        super().__init__(MESH, [authority(root).root for root in roots])

    def _verified(self, der: bytes) -> Signer:
        known = (der, *self._roots, *self._retired)
        if known not in _ADMITTED:
            _ADMITTED[known] = _Signer(**msgspec.structs.asdict(super()._verified(der)))
        return _ADMITTED[known]


_ADMITTED: Final[dict[tuple[object, ...], Signer]] = {}


@cache
def authority(_root: int) -> Authority:
    """Returns one of the CAs of every simulated mesh; its keys are random, and nothing depends on them."""
    return Authority()


@cache
def pem(root: int) -> str:
    """Returns a CA's certificate."""
    return authority(root).root.public_bytes(serialization.Encoding.PEM).decode()


def number_of(root: str) -> int:
    """Returns which CA a certificate in PEM is."""
    return [*map(pem, range(ROOTS))].index(root)


@cache
def root_fingerprint(root: int) -> str:
    """Returns the fingerprint of a CA's certificate."""
    return fingerprint(authority(root).root)


@cache
def identity(name: str, root: int = 0, _number: int = 0, kind: SignerKind = "node") -> Identity:
    """Returns who a host is, in every simulation: each of its identities under a CA has a number."""
    issued = authority(root).identity(name, kind, admit=False, end=END + _YEAR / 2)
    return Identity(name, issued, root)


@cache
def _secret(fingerprint: str) -> bytes:
    return blake2b(fingerprint.encode(), person=b"simulated key").digest()


def _signature(fingerprint: str, statement: bytes) -> bytes:
    return blake2b(statement, key=_secret(fingerprint), digest_size=64).digest()
