"""Backups: nothing in a file is believed because it stands there, whoever signed the file."""

from __future__ import annotations

import msgspec
import pytest
from builders import MESH, NOW_MS, Authority, Identity, evicted, instance, registered
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core import backup, envelope, records
from pmoves_mesh.core.backup import Header
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import MalformedEvent

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")
ROOT = AUTHORITY.identity("root", "operator")
HEADER = Header(mesh=MESH, made="2026-01-02T00:00:00Z", position=7, stream="x", roots=("pem",))


def record_of(event: object, identity: Identity) -> Record:
    sealed = envelope.seal(event, identity)  # type: ignore[arg-type] # any event of the builders
    return records.record_of(sealed, event, position=3, time_ms=NOW_MS)  # type: ignore[arg-type] # as above


HELD = {
    "service.rag.alpha.1": record_of(registered(1, instance()), ALPHA),
    "evicted.rag.alpha._": record_of(evicted(), ROOT),
}
CERTIFICATES = {ALPHA.fingerprint: ALPHA.der, ROOT.fingerprint: ROOT.der}
DATA = backup.pack(HEADER, CERTIFICATES, HELD, ALPHA, ALPHA.der)


def fresh_trust() -> Trust:
    return Trust(MESH, [AUTHORITY.root])


def test_what_was_packed_is_unpacked_and_its_signer_named():
    held = backup.unpack(DATA, fresh_trust())
    assert (held.header, held.certificates, held.records) == (HEADER, CERTIFICATES, HELD)
    assert held.signer.id == "spiffe://pmoves-mesh/node/alpha"


@given(place=st.integers(0, len(DATA) - 2), byte=st.integers(0, 255))
def test_no_byte_can_be_changed(place: int, byte: int):
    changed = DATA[:place] + bytes([byte]) + DATA[place + 1 :]
    if changed == DATA:
        return
    with pytest.raises(MalformedEvent) as caught:
        backup.unpack(changed, fresh_trust())
    assert "\n" not in str(caught.value)


@given(end=st.integers(0, len(DATA) - 2))
def test_a_truncated_file_is_refused(end: int):
    with pytest.raises(MalformedEvent):
        backup.unpack(DATA[:end], fresh_trust())


def test_a_line_less_is_noticed():
    lines = DATA.split(b"\n")
    with pytest.raises(MalformedEvent, match="were signed"):
        backup.unpack(b"\n".join([*lines[:2], *lines[3:]]), fresh_trust())


def test_a_service_may_not_sign_a_file_and_nobody_of_another_mesh_can():
    service = AUTHORITY.identity("rag", "service")
    with pytest.raises(MalformedEvent, match="may not sign"):
        backup.unpack(backup.pack(HEADER, {}, {}, service, service.der), fresh_trust())
    with pytest.raises(MalformedEvent, match="nobody of this mesh"):
        backup.unpack(DATA, Trust(MESH, [Authority().root]))


def test_a_file_of_another_format_or_mesh_is_refused():
    for header in (
        msgspec.structs.replace(HEADER, format="pmoves-mesh snapshot 2"),
        msgspec.structs.replace(HEADER, mesh="other"),
    ):
        with pytest.raises(MalformedEvent, match="line 1"):
            backup.unpack(backup.pack(header, {}, {}, ALPHA, ALPHA.der), fresh_trust())
