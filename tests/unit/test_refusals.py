"""Refusals: every way in which an event can be wrong has a reason, and so a counter, of its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import msgspec
import pytest
from builders import END, NOW_MS, Authority, Identity, announced, line, lost, registered, revoked

from pmoves_mesh import errors
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import MESSAGE_ID, SIGNATURE, SealedEvent
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Signer
from pmoves_mesh.errors import RemoteProtocolError

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")
ROOT = AUTHORITY.identity("root", "operator")
SEALED = envelope.seal(registered(5), ALPHA)
AHEAD_MS = 100 * 365 * 86_400_000


def reason_of(sealed: SealedEvent, *, authority: Authority = AUTHORITY, time_ms: int = NOW_MS) -> str:
    """Returns why an event is refused."""
    with pytest.raises(RemoteProtocolError) as refused:
        authority.unseal(sealed, time_ms=time_ms)
    return refused.value.reason


def with_headers(sealed: SealedEvent, **headers: str) -> SealedEvent:
    names = {"message_id": MESSAGE_ID, "signature": SIGNATURE}
    changed = {names[name]: value for name, value in headers.items()}
    return msgspec.structs.replace(sealed, headers={**sealed.headers, **changed})


def every_refusal() -> Iterator[type[RemoteProtocolError]]:
    waiting = list(RemoteProtocolError.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def test_every_refusal_has_a_reason_of_its_own_in_one_word():
    kinds = [RemoteProtocolError, *every_refusal()]
    reasons = [vars(kind).get("reason") for kind in kinds]
    assert None not in reasons
    assert len(set(reasons)) == len(kinds) > 12
    assert all(str(reason).replace("_", "").isalpha() for reason in reasons)
    assert {kind.__module__ for kind in kinds} == {errors.__name__}


def test_a_replayed_event_changes_nothing():
    registry = Registry()
    (verified,) = AUTHORITY.unseal(SEALED)
    assert apply(registry, verified, position=1, time_ms=NOW_MS).outcome == "applied"
    before = registry.state()
    for position in (2, 3):
        assert apply(registry, verified, position=position, time_ms=NOW_MS).outcome == "repeated"
    assert registry.state() == before


def test_an_event_that_is_older_than_what_is_held_changes_nothing():
    registry = Registry()
    for position, revision in enumerate((7, 6), 1):
        change = apply(
            registry,
            AUTHORITY.verified(registered(revision), ALPHA),
            position=position,
            time_ms=NOW_MS,
        )
    assert change.outcome == "outdated"
    (entry,) = registry.entries()
    assert entry.stamp == (1, 7)


def test_an_event_replayed_under_another_message_id_is_refused():
    assert reason_of(with_headers(SEALED, message_id="registered.alpha.1.6")) == "bad_signature"


def test_an_event_of_another_mesh_with_the_same_ca_is_refused():
    signer = AUTHORITY.trust.signer(ALPHA.fingerprint)
    assert isinstance(signer, Signer)
    elsewhere = Authority("elsewhere")
    elsewhere.trust._signers[ALPHA.fingerprint] = msgspec.structs.replace(
        signer, mesh="elsewhere", root=elsewhere.trust.root_fingerprints[0]
    )
    assert reason_of(SEALED, authority=elsewhere) == "bad_signature"


def test_an_event_of_another_mesh_and_its_ca_is_refused():
    foreign = Authority("elsewhere")
    sealed = envelope.seal(registered(1, mesh="elsewhere"), foreign.identity("alpha"))
    assert reason_of(sealed) == "untrusted_issuer"


def test_an_event_on_another_subject_is_refused():
    for subject in ("service.registry.updated", "mesh.node.announce.v1", ""):
        assert reason_of(msgspec.structs.replace(SEALED, subject=subject)) == "bad_signature"


@pytest.mark.parametrize("kept", [0, 1, len(SEALED.payload) // 2, len(SEALED.payload) - 1])
def test_a_truncated_event_is_refused(kept: int):
    assert reason_of(msgspec.structs.replace(SEALED, payload=SEALED.payload[:kept])) == "bad_signature"


@pytest.mark.parametrize("kept", [0, 4, 40])
def test_an_event_with_a_truncated_signature_is_refused(kept: int):
    assert reason_of(with_headers(SEALED, signature=SEALED.headers[SIGNATURE][:kept])) == "bad_signature"


def test_an_event_with_any_bit_flipped_is_refused():
    for bit in range(len(SEALED.payload) * 8):
        payload = bytearray(SEALED.payload)
        payload[bit // 8] ^= 1 << bit % 8
        assert reason_of(msgspec.structs.replace(SEALED, payload=bytes(payload))) == "bad_signature"


def test_an_event_from_after_its_certificates_end_is_refused():
    after = int(END.timestamp() * 1000) + 1
    assert reason_of(SEALED, time_ms=after) == "certificate_not_held"


def test_an_event_from_before_its_certificates_beginning_is_refused():
    late = AUTHORITY.identity("alpha", begin=END - dt.timedelta(days=1))
    assert reason_of(envelope.seal(registered(1), late)) == "certificate_not_held"


def test_an_event_from_after_its_certificates_revocation_is_refused_and_those_before_are_not():
    registry = Registry()
    (mine,) = AUTHORITY.unseal(SEALED)
    decree = AUTHORITY.verified(revoked(ALPHA.fingerprint), ROOT)
    apply(registry, decree, position=10, time_ms=NOW_MS)
    assert apply(registry, mine, position=11, time_ms=NOW_MS).outcome == "revoked"
    assert not list(registry.entries())
    assert apply(registry, mine, position=9, time_ms=NOW_MS).outcome == "applied"
    (entry,) = registry.entries()
    assert not registry.is_listed(entry)


@pytest.mark.parametrize(
    "event",
    [
        registered(1),
        announced(1, [line(1)]),
        announced(1, services_running=("rag",)),
    ],
    ids=["registered", "manifest", "services_running"],
)
def test_an_event_about_a_service_beyond_the_certificates_limits_is_refused(event: Event):
    limited = _limited_to("whisper-*")
    assert reason_of(envelope.seal(event, limited)) == "service_not_allowed"


def test_a_service_within_the_certificates_limits_is_accepted():
    limited = _limited_to("rag", "whisper-*")
    assert AUTHORITY.verified(registered(1), limited).verified


def test_an_event_from_beyond_any_clock_is_refused_by_whomever():
    for event, identity in (
        (lost(1, incarnation=NOW_MS + AHEAD_MS + 1), AUTHORITY.identity("omega")),
        (registered(1, incarnation=NOW_MS + AHEAD_MS + 1), ALPHA),
    ):
        assert reason_of(envelope.seal(event, identity)) == "ahead_of_time"
    at_most = registered(1, incarnation=NOW_MS + AHEAD_MS)
    assert AUTHORITY.verified(at_most, ALPHA).event == at_most


def _limited_to(*patterns: str) -> Identity:
    """Returns an identity of alpha whose certificate allows only some service names."""
    identity = AUTHORITY.identity("alpha")
    admitted = AUTHORITY.trust.admit(identity.der)
    AUTHORITY.trust._signers[identity.fingerprint] = msgspec.structs.replace(admitted, allow=patterns)
    return identity
