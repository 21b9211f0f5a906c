"""What a signature is for: these bytes, on this subject, under this message id, in this mesh, whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import MESH, NOW_MS, Authority
from events import LABELS, TEXT, events_of
from hypothesis import assume, given
from hypothesis import strategies as st

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import FORMAT, MESSAGE_ID, SealedEvent
from pmoves_mesh.core.event import EVENT_TYPES, NodeLost
from pmoves_mesh.errors import BadSignature, RemoteProtocolError

AUTHORITY = Authority()
WITNESS = AUTHORITY.identity("omega")
SUBJECTS = st.sampled_from([kind.subject for kind in EVENT_TYPES])


@st.composite
def sealed_events(draw: st.DrawFn) -> SealedEvent:
    """Returns a genuine event of a witness, as any node may state it."""
    event: Any = draw(events_of(NodeLost))
    placed = msgspec.structs.replace(
        event, mesh=MESH, witness="omega", incarnation=event.incarnation % NOW_MS
    )
    sealed = envelope.seal(placed, WITNESS)
    assert AUTHORITY.unseal(sealed)
    return sealed


def is_refused(sealed: SealedEvent) -> None:
    with pytest.raises(BadSignature):
        AUTHORITY.unseal(sealed)


@given(sealed_events(), st.data())
def test_no_truncated_event_verifies(sealed: SealedEvent, data: st.DataObject):
    kept = data.draw(st.integers(0, len(sealed.payload) - 1))
    is_refused(msgspec.structs.replace(sealed, payload=sealed.payload[:kept]))


@given(sealed=sealed_events(), more=st.binary(min_size=1, max_size=20), before=st.booleans())
def test_no_event_with_something_added_verifies(sealed: SealedEvent, more: bytes, *, before: bool):
    payload = more + sealed.payload if before else sealed.payload + more
    is_refused(msgspec.structs.replace(sealed, payload=payload))


@given(sealed_events(), SUBJECTS | TEXT)
def test_no_event_verifies_on_another_subject(sealed: SealedEvent, subject: str):
    assume(subject != sealed.subject)
    is_refused(msgspec.structs.replace(sealed, subject=subject))


@given(sealed_events(), TEXT)
def test_no_event_verifies_under_another_message_id(sealed: SealedEvent, message_id: str):
    assume(message_id != sealed.message_id)
    is_refused(msgspec.structs.replace(sealed, headers={**sealed.headers, MESSAGE_ID: message_id}))


@given(sealed_events(), LABELS)
def test_no_event_verifies_in_another_mesh(sealed: SealedEvent, mesh: str):
    assume(mesh != MESH)
    signer = AUTHORITY.trust.signer(WITNESS.fingerprint)
    assert signer is not None
    # Even a mesh that came to hold the very same identity for its own does not take it.
    elsewhere = Authority(mesh)
    root = elsewhere.trust.root_fingerprints[0]
    elsewhere.trust._signers[WITNESS.fingerprint] = msgspec.structs.replace(signer, mesh=mesh, root=root)
    with pytest.raises(BadSignature):
        elsewhere.unseal(sealed)


@given(sealed_events(), sealed_events())
def test_no_part_of_one_event_verifies_as_a_part_of_another(one: SealedEvent, other: SealedEvent):
    assume(one.payload != other.payload)
    for mixed in (
        SealedEvent(subject=one.subject, payload=other.payload, headers=one.headers),
        SealedEvent(
            subject=one.subject, payload=one.payload, headers={**other.headers, FORMAT: one.headers[FORMAT]}
        ),
    ):
        with pytest.raises(RemoteProtocolError):
            AUTHORITY.unseal(mixed)
