"""The envelope: only what an entitled signer signed, for this mesh and subject, comes out of it."""

from __future__ import annotations

import base64

import msgspec
import pytest
from builders import (
    BEGIN,
    END,
    MESH,
    NOW_MS,
    Authority,
    Identity,
    announced,
    evicted,
    expired,
    left,
    lost,
    registered,
    revoked,
    rotated,
)

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import FORMAT, MESSAGE_ID, SIGNATURE, SIGNER, SealedEvent, VerifiedEvent
from pmoves_mesh.core.event import Event
from pmoves_mesh.errors import (
    BadSignature,
    CertificateNotHeld,
    EventTooLarge,
    ForeignMesh,
    LocalProtocolError,
    MalformedEvent,
    RemoteProtocolError,
    SignerNotEntitled,
    UnknownKind,
    Unsigned,
    UnsupportedVersion,
    UntrustedIssuer,
)

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")
BETA = AUTHORITY.identity("beta")
OMEGA = AUTHORITY.identity("omega")
ROOT = AUTHORITY.identity("root", "operator")
SEALED = envelope.seal(registered(1), ALPHA)


def _with(sealed: SealedEvent, **headers: str | None) -> SealedEvent:
    """Returns a sealed event with some headers replaced, or removed where None is given."""
    names = {"message_id": MESSAGE_ID, "version": FORMAT, "signer": SIGNER, "signature": SIGNATURE}
    merged = {**sealed.headers, **{names[name]: value for name, value in headers.items()}}
    kept = {name: value for name, value in merged.items() if value is not None}
    return SealedEvent(subject=sealed.subject, payload=sealed.payload, headers=kept)


def _signed_raw(subject: str, payload: bytes, identity: Identity, version: str = "1.0") -> SealedEvent:
    """Returns any bytes, rightly signed: what a node of another release or make might send."""
    statement = envelope._statement(version, MESH, subject, "id", payload)
    signature = base64.b64encode(identity.sign(statement)).decode()
    headers = {MESSAGE_ID: "id", FORMAT: version, SIGNER: identity.fingerprint, SIGNATURE: signature}
    return SealedEvent(subject=subject, payload=payload, headers=headers)


@pytest.mark.parametrize(
    ("event", "identity"),
    [
        (registered(1), ALPHA),
        (announced(1), ALPHA),
        (left(1), ALPHA),
        (lost(1), OMEGA),
        (expired(1), OMEGA),
        (lost(0, incarnation=0), OMEGA),
        (evicted(), ROOT),
        (revoked("a" * 64), ROOT),
        (rotated("pem"), ROOT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_entitled_signer_states_comes_out_as_it_went_in(event: Event, identity: Identity):
    sealed = envelope.seal(event, identity)
    one = AUTHORITY.verified(event, identity)
    assert one.event == event
    assert one.verified
    assert one.fingerprint == identity.fingerprint == envelope.signer_of(sealed)
    assert one.signer.endswith(f"/{'operator' if identity is ROOT else 'node'}/{one.signer.split('/')[-1]}")


@pytest.mark.parametrize(
    ("event", "identity"),
    [
        (registered(1), BETA),
        (announced(1), BETA),
        (left(1), BETA),
        (registered(1), AUTHORITY.identity("alpha", "service")),
        (registered(1), AUTHORITY.identity("alpha", "operator")),
        (lost(1), BETA),
        (lost(1), ALPHA),
        (expired(1), ALPHA),
        (evicted(), ALPHA),
        (evicted(), AUTHORITY.identity("root")),
        (evicted(), AUTHORITY.identity("other", "operator")),
        (revoked("a" * 64), AUTHORITY.identity("root")),
        (rotated("pem"), AUTHORITY.identity("root", "service")),
        (registered(1, incarnation=0), ALPHA),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nobody_speaks_for_another(event: Event, identity: Identity):
    with pytest.raises(SignerNotEntitled) as refused:
        AUTHORITY.verified(event, identity)
    assert refused.value.reason == "not_entitled"
    assert refused.value.signer.startswith(f"spiffe://{MESH}/")


def test_the_message_id_is_the_authors_stamp_unless_given():
    assert SEALED.message_id == "registered.alpha.1.1"
    assert envelope.seal(registered(1), ALPHA, message_id="mine").message_id == "mine"
    assert SealedEvent(subject="x", payload=b"").message_id == ""


def test_the_digest_is_that_of_the_verified_event_and_of_no_other():
    (one,) = AUTHORITY.unseal(SEALED)
    assert one.digest == envelope.digest(SEALED, MESH)
    others = [
        envelope.digest(SEALED, "other"),
        envelope.digest(_with(SEALED, message_id="x"), MESH),
        envelope.digest(envelope.seal(registered(2), ALPHA), MESH),
    ]
    assert len({one.digest, *others}) == 4


@pytest.mark.parametrize(
    "changed",
    [
        _with(SEALED, message_id="registered.alpha.1.2"),
        _with(SEALED, message_id=None),
        _with(SEALED, version="1.1"),
        _with(SEALED, version="1"),
        _with(SEALED, signer=BETA.fingerprint),
        _with(SEALED, signature=base64.b64encode(ALPHA.sign(b"else")).decode()),
        _with(SEALED, signature=""),
        msgspec.structs.replace(SEALED, subject="service.registry.updated"),
        msgspec.structs.replace(SEALED, payload=SEALED.payload.replace(b"rag", b"rat")),
        msgspec.structs.replace(SEALED, payload=SEALED.payload + b" "),
    ],
)
def test_whatever_is_changed_does_not_verify(changed: SealedEvent):
    with pytest.raises(BadSignature):
        AUTHORITY.unseal(changed)


def test_parts_of_a_statement_cannot_be_shifted_into_each_other():
    statements = {
        envelope._statement("1.0", "ab", "c", "d", b""),
        envelope._statement("1.0", "a", "bc", "d", b""),
        envelope._statement("1.0", "a", "b", "cd", b""),
        envelope._statement("1.0", "a", "b", "c", b"d"),
        envelope._statement("1.0", "a", "b", "c\n1:d", b""),
    }
    assert len(statements) == 5


def test_a_signature_has_one_form_only():
    loose = SEALED.headers[SIGNATURE]
    signature = next(
        sealed.headers[SIGNATURE]
        for sealed in (envelope.seal(registered(1), ALPHA) for _ in range(200))
        if sealed.headers[SIGNATURE].endswith("=")
    )
    digit = signature.rstrip("=")[-1]
    loose = signature.replace(f"{digit}=", f"{chr(ord(digit) + 1)}=")
    assert base64.b64decode(loose) == base64.b64decode(signature)
    with pytest.raises(MalformedEvent, match="canonical"):
        AUTHORITY.unseal(_with(SEALED, signature=loose))


@pytest.mark.parametrize("signature", ["*", "AAA", "é", "\udcff", "AA AA"])
def test_a_signature_that_is_not_base64_is_malformed(signature: str):
    with pytest.raises(MalformedEvent, match=SIGNATURE):
        AUTHORITY.unseal(_with(SEALED, signature=signature))


@pytest.mark.parametrize("accept", [False, True])
def test_a_message_id_that_is_not_utf_8_is_malformed(*, accept: bool):
    with pytest.raises(MalformedEvent, match="not UTF-8"):
        AUTHORITY.unseal(_with(SEALED, message_id="\udcff"))
    bare = SealedEvent(
        subject="mesh.node.announce.v1", payload=b'{"node":"a"}', headers={MESSAGE_ID: "\udcff"}
    )
    with pytest.raises(RemoteProtocolError):
        AUTHORITY.unseal(bare, accept_unsigned=accept)


def test_an_event_of_another_mesh_does_not_verify_here():
    elsewhere = Authority("elsewhere")
    alpha = elsewhere.identity("alpha")
    foreign = envelope.seal(registered(1, mesh="elsewhere"), alpha)
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.unseal(foreign)
    with pytest.raises(BadSignature):
        AUTHORITY.unseal(envelope.seal(registered(1, mesh="elsewhere"), ALPHA))


def test_an_event_that_names_another_mesh_inside_is_foreign():
    payload = msgspec.json.encode(registered(1, mesh="elsewhere"))
    with pytest.raises(ForeignMesh) as refused:
        AUTHORITY.unseal(_signed_raw(SEALED.subject, payload, ALPHA))
    assert refused.value.mesh == "elsewhere"


def test_a_signer_that_was_not_admitted_is_untrusted():
    stranger = AUTHORITY.identity("alpha", admit=False)
    with pytest.raises(UntrustedIssuer, match="not known") as refused:
        AUTHORITY.unseal(envelope.seal(registered(1), stranger))
    assert refused.value.signer == stranger.fingerprint
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.unseal(_with(SEALED, signer=None))


@pytest.mark.parametrize(
    ("time_ms", "holds"),
    [
        (BEGIN.timestamp() * 1000 - 5 * 60 * 1000, True),
        (BEGIN.timestamp() * 1000 - 5 * 60 * 1000 - 1, False),
        (NOW_MS, True),
        (END.timestamp() * 1000, True),
        (END.timestamp() * 1000 + 1, False),
    ],
)
def test_a_certificate_must_have_held_when_the_stream_took_the_event(time_ms: float, *, holds: bool):
    if holds:
        assert AUTHORITY.unseal(SEALED, time_ms=int(time_ms))
    else:
        with pytest.raises(CertificateNotHeld):
            AUTHORITY.unseal(SEALED, time_ms=int(time_ms))


def test_a_newer_minor_format_is_read_and_its_fields_are_ignored():
    payload = SEALED.payload[:-1] + b',"later":1}'
    (one,) = AUTHORITY.unseal(_signed_raw(SEALED.subject, payload, ALPHA, version="1.9"))
    assert one.event == registered(1)


def test_a_newer_major_format_is_unsupported():
    with pytest.raises(UnsupportedVersion):
        AUTHORITY.unseal(_signed_raw(SEALED.subject, b"?", ALPHA, version="2.0"))


@pytest.mark.parametrize(
    ("subject", "payload", "error"),
    [
        (SEALED.subject, b"{", MalformedEvent),
        (SEALED.subject, b" " * 300_000, EventTooLarge),
        ("mesh.gpu.status.v1", b"{}", UnknownKind),
    ],
)
def test_a_signature_does_not_excuse_a_bad_payload(
    subject: str, payload: bytes, error: type[RemoteProtocolError]
):
    with pytest.raises(error):
        AUTHORITY.unseal(_signed_raw(subject, payload, ALPHA))


def test_an_unsigned_event_is_refused_unless_the_mesh_accepts_such():
    bare = SealedEvent(subject="mesh.node.announce.v1", payload=b'{"node":"old","port":80}')
    with pytest.raises(Unsigned, match=r"unsigned event on mesh\.node\.announce\.v1") as refused:
        AUTHORITY.unseal(bare)
    assert refused.value.reason == "unsigned"
    node, service = AUTHORITY.unseal(bare, position=9, accept_unsigned=True)
    assert not node.verified
    assert not service.verified
    assert node.signer == node.fingerprint == ""
    assert node.event.stamp == service.event.stamp == (0, 9)
    assert node.digest == envelope.digest(bare, MESH)
    assert envelope.signer_of(bare) is None


def test_a_bad_signature_is_refused_even_where_unsigned_events_are_accepted():
    with pytest.raises(BadSignature):
        AUTHORITY.unseal(_with(SEALED, message_id="x"), accept_unsigned=True)


def test_a_verified_event_cannot_be_made_elsewhere():
    with pytest.raises(TypeError, match="unseal alone"):
        VerifiedEvent(registered(1), None, "")
    with pytest.raises(TypeError):
        VerifiedEvent(registered(1), None, "", _by=object())


def test_an_event_that_is_too_large_is_not_sealed():
    with pytest.raises(LocalProtocolError):
        envelope.seal(announced(1, resources={"k": "x" * 300_000}), ALPHA)


def test_a_proof_stands_for_its_own_event_alone():
    trust = AUTHORITY.trust
    proof = envelope.prove(SEALED, trust)
    assert proof is not None
    (one,) = envelope.unseal(SEALED, trust, time_ms=NOW_MS, position=1, proof=proof)
    assert (one.event, one.digest) == (AUTHORITY.unseal(SEALED)[0].event, AUTHORITY.unseal(SEALED)[0].digest)
    forged = _with(SEALED, signature=base64.b64encode(b"nothing").decode())
    assert envelope.prove(forged, trust) is None
    with pytest.raises(BadSignature):
        envelope.unseal(forged, trust, time_ms=NOW_MS, position=1, proof=proof)


def test_nobody_else_makes_a_proof():
    signer = AUTHORITY.trust.signer(envelope.signer_of(SEALED) or "")
    assert signer is not None
    with pytest.raises(TypeError):
        envelope.Proof(SEALED, signer, b"")
