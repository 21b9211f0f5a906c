"""The trust of simulated hosts: whatever one of them verified is verified, for real, but only once."""

from __future__ import annotations

from functools import cache, lru_cache

import msgspec
from builders import MESH, Authority, Identity

from pmoves_mesh.core.trust import Signer, Trust


class _Signer(Signer, frozen=True):
    def verifies(self, signature: bytes, statement: bytes) -> bool:
        return _verifies(self.fingerprint, signature, statement)


class SimTrust(Trust):
    """The trust of one agent. It shares nothing with others but the arithmetic."""

    def __init__(self) -> None:
        super().__init__(MESH, [authority().root])

    def _verified(self, der: bytes) -> Signer:
        return _Signer(**msgspec.structs.asdict(_admitted(der)))


@cache
def authority() -> Authority:
    """Returns the CA of every simulated mesh; its keys are random, and nothing depends on them."""
    return Authority()


@cache
def identity(name: str) -> Identity:
    """Returns who a host is, in every simulation."""
    return authority().identity(name)


@cache
def _admitted(der: bytes) -> Signer:
    return Trust(MESH, [authority().root]).admit(der)


@lru_cache(maxsize=10_000)
def _verifies(fingerprint: str, signature: bytes, statement: bytes) -> bool:
    signer = authority().trust.signer(fingerprint)
    return signer is not None and signer.verifies(signature, statement)
