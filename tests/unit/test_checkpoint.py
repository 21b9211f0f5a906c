"""Checkpoints: only what a node of this mesh signed as it stands is read."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from builders import MESH, NOW_MS, Story, registered

from pmoves_mesh.core import checkpoint, snapshot
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.errors import (
    BadSignature,
    CertificateNotHeld,
    ForeignMesh,
    MalformedEvent,
    SignerNotEntitled,
    UnsupportedVersion,
)

PLACE = Place(position=2, time_ms=NOW_MS, stream_id="2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def story() -> Story:
    told = Story()
    told.tell(registered(1), registered(2))
    return told


@pytest.fixture(scope="module")
def data(story: Story) -> bytes:
    return checkpoint.seal(story.registry, MESH, PLACE, story.identity("alpha"))


def opened(story: Story, data: bytes, place: Place = PLACE) -> Any:
    sealed = checkpoint.read(data, MESH, place)
    signer = story.authority.trust.signer(sealed.signer)
    assert signer is not None
    return checkpoint.unseal(sealed, signer)


def changed(data: bytes, **fields: Any) -> bytes:
    sealed = msgspec.msgpack.decode(data, type=checkpoint.Sealed)
    return msgspec.msgpack.encode(msgspec.structs.replace(sealed, **fields))


def test_a_checkpoint_is_the_registry_that_was_sealed(story: Story, data: bytes):
    assert opened(story, data).state() == story.registry.state()


@pytest.mark.parametrize(
    "fields",
    [
        {"registry": zlib.compress(snapshot.dump(Story().registry, MESH))},
        {"signature": b"nothing"},
    ],
)
def test_what_was_changed_afterwards_is_not_believed(story: Story, data: bytes, fields: dict[str, Any]):
    with pytest.raises(BadSignature):
        opened(story, changed(data, **fields))


@pytest.mark.parametrize(
    "place",
    [
        Place(position=3, time_ms=NOW_MS, stream_id=PLACE.stream_id),
        Place(position=2, time_ms=NOW_MS - 1, stream_id=PLACE.stream_id),
        Place(position=2, time_ms=NOW_MS, stream_id="another stream"),
    ],
)
def test_one_is_of_its_own_place_in_its_own_stream(story: Story, data: bytes, place: Place):
    with pytest.raises(MalformedEvent, match="kept as"):
        checkpoint.read(data, MESH, place)
    with pytest.raises(BadSignature):
        opened(story, changed(data, place=place), place)


def test_one_of_another_mesh_is_foreign(data: bytes):
    with pytest.raises(ForeignMesh):
        checkpoint.read(data, "elsewhere", PLACE)


def test_one_of_a_later_release_is_left_alone(data: bytes):
    with pytest.raises(UnsupportedVersion):
        checkpoint.read(changed(data, version="2"), MESH, PLACE)


@pytest.mark.parametrize("garbage", [b"", b"nothing", b"\x80", b"\xff" * 100])
def test_what_is_none_is_malformed(garbage: bytes):
    with pytest.raises(MalformedEvent):
        checkpoint.read(garbage, MESH, PLACE)


def test_one_that_is_too_large_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch, data: bytes):
    monkeypatch.setattr(checkpoint, "BYTES_MAX", len(data) - 1)
    with pytest.raises(MalformedEvent, match="at most"):
        checkpoint.read(data, MESH, PLACE)


@pytest.mark.parametrize("kind", ["operator", "service"])
def test_only_a_node_may_make_one(story: Story, kind: Any):
    data = checkpoint.seal(story.registry, MESH, PLACE, story.identity("root", kind))
    with pytest.raises(SignerNotEntitled):
        opened(story, data)


def test_whoever_signed_it_still_had_a_certificate_then(story: Story):
    late = Place(position=2, time_ms=NOW_MS + 365 * 86_400_000, stream_id=PLACE.stream_id)
    data = checkpoint.seal(story.registry, MESH, late, story.identity("alpha"))
    with pytest.raises(CertificateNotHeld):
        opened(story, data, late)


def sealed_with(story: Story, packed: bytes) -> bytes:
    """Returns a checkpoint whose content somebody signed without looking."""
    place, identity = PLACE, story.identity("alpha")
    statement = checkpoint._statement(MESH, place, packed)
    return msgspec.msgpack.encode(
        checkpoint.Sealed(
            version="1",
            mesh=MESH,
            place=place,
            signer=identity.fingerprint,
            signature=identity.sign(statement),
            registry=packed,
        )
    )


def test_one_that_unpacks_to_more_than_it_may_is_refused(story: Story, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "_UNPACKED_MAX", 1000)
    with pytest.raises(MalformedEvent, match="larger than it may be"):
        opened(story, sealed_with(story, zlib.compress(b"0" * 10_000)))


@pytest.mark.parametrize("packed", [b"", b"nothing", zlib.compress(b"nothing")])
def test_what_does_not_unpack_to_a_registry_is_refused(story: Story, packed: bytes):
    with pytest.raises(MalformedEvent):
        opened(story, sealed_with(story, packed))


def test_one_whose_registry_is_of_another_position_is_refused(story: Story):
    elsewhere = Story()
    elsewhere.tell(registered(1))
    packed = zlib.compress(snapshot.dump(elsewhere.registry, MESH))
    with pytest.raises(MalformedEvent, match="of position 1"):
        opened(story, sealed_with(story, packed))
