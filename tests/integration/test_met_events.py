"""Events that are met again: their signatures are verified once, and all else each time."""

from __future__ import annotations

import random

import msgspec
import pytest
from builders import BEGIN, NOW_MS, Authority, registered
from http_support import PinnedClock

from pmoves_mesh import verifier as verifier_module
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.trust import Signer
from pmoves_mesh.errors import BadSignature, CertificateNotHeld
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient
from pmoves_mesh.ports import LogMessage
from pmoves_mesh.verifier import Verifier

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")


@pytest.fixture
def verifier() -> Verifier:
    client = MemoryClient(MemoryBroker(PinnedClock()), random.Random(1))
    return Verifier(AUTHORITY.trust, MemoryBucket(client, "identities"), PinnedClock())


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Gives the statements whose signatures are verified, as that happens."""
    statements: list[bytes] = []
    verifies = Signer.verifies

    def noted(signer: Signer, signature: bytes, statement: bytes) -> bool:
        statements.append(statement)
        return verifies(signer, signature, statement)

    monkeypatch.setattr(Signer, "verifies", noted)
    return statements


def copied(sealed: SealedEvent, **changed: object) -> SealedEvent:
    """Returns the same event as another part of the agent meets it: other objects, the same bytes."""
    return msgspec.structs.replace(sealed, headers=dict(sealed.headers), **changed)


def at(sealed: SealedEvent, position: int, time_ms: int = NOW_MS) -> LogMessage:
    return LogMessage(sealed=sealed, position=position, time_ms=time_ms)


async def test_the_same_event_is_verified_the_first_time(verifier: Verifier, verified: list[bytes]):
    sealed = envelope.seal(registered(1), ALPHA)
    (first,) = verifier.unseal_now(at(sealed, 0))
    (again,) = await verifier.unseal(at(copied(sealed), 7))
    assert len(verified) == 1
    assert (again.event, again.digest, again.signer) == (first.event, first.digest, first.signer)


@pytest.mark.parametrize("changed", [{"payload": b"{}"}, {"subject": "service.registry.updated"}])
async def test_another_event_with_its_signature_is_no_such_event(
    verifier: Verifier, verified: list[bytes], changed: dict[str, object]
):
    sealed = envelope.seal(registered(1), ALPHA)
    await verifier.unseal(at(sealed, 1))
    with pytest.raises(BadSignature):
        await verifier.unseal(at(copied(sealed, **changed), 2))
    assert len(verified) == 2


async def test_what_was_verified_is_believed_only_while_its_signer_is(verifier: Verifier):
    sealed = envelope.seal(registered(1), ALPHA)
    await verifier.unseal(at(sealed, 1))
    with pytest.raises(CertificateNotHeld):
        await verifier.unseal(at(copied(sealed), 2, time_ms=int(BEGIN.timestamp() * 1000) - 10**9))


async def test_only_the_latest_ones_are_remembered(
    verifier: Verifier, verified: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verifier_module, "_MET_MAX", 3)
    events = [envelope.seal(registered(number), ALPHA) for number in range(1, 6)]
    for position, sealed in enumerate(events, 1):
        await verifier.unseal(at(sealed, position))
    assert len(verified) == 5
    await verifier.unseal(at(copied(events[-1]), 6))
    assert len(verified) == 5
    await verifier.unseal(at(copied(events[0]), 7))
    assert len(verified) == 6
