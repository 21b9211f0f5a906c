"""Operators: what they decree, in whose name, and which certificates they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import MESH, Authority
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent import operator, revocation
from pmoves_mesh.agent.revocation import Shown
from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import CertificatesRevoked, InstanceEvicted, RetiredRoot, RootsRotated
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import CapacityError, InvalidFieldError, NotFoundError, PkiError
from pmoves_mesh.pki import keystore

NOW_MS = 1_800_000_000_000
PLACE: dict[str, Any] = {"mesh": MESH, "node": "root", "incarnation": NOW_MS, "revision": 1}


def shown(identity: str, digits: str, ends_in_s: int = 60) -> Shown:
    return Shown(
        identity=f"spiffe://{MESH}/{identity}",
        fingerprint=digits.ljust(64, "0"),
        not_after_ms=NOW_MS + ends_in_s * 1000,
    )


KNOWN = [
    shown("node/jetson", "aaaaaaaa1", 10),
    shown("node/jetson", "aaaaaaaa2", 20),
    shown("node/jetson", "bbbbbbbb", -5),
    shown("service/jetson", "cccccccc"),
    shown("operator/jetson", "dddddddd"),
    shown("node/beefbeef", "eeeeeeee"),
    shown("node/other", "beefbeef"),
]


def meant(text: str) -> list[str]:
    return [one.fingerprint.rstrip("0") for one in revocation.chosen(text, MESH, KNOWN, NOW_MS)]


def test_decrees_are_in_the_operators_name_about_whom_they_concern():
    assert operator.evict("rag", "alpha", None, reason="why")(PLACE) == InstanceEvicted(
        **{**PLACE, "node": "alpha"}, service="rag", operator="root", reason="why"
    )
    lifted = operator.evict("rag", "alpha", "one", lifted=True)(PLACE)
    assert (lifted.id, lifted.lifted, lifted.node) == ("one", True, "alpha")
    assert operator.revoke(["a" * 64], reason="stolen")(PLACE) == CertificatesRevoked(
        **PLACE, operator="root", fingerprints=("a" * 64,), reason="stolen"
    )
    retired = RetiredRoot(certificate="old", position=3)
    assert operator.rotate_roots(["new"], [retired])(PLACE) == RootsRotated(
        **PLACE, operator="root", roots=("new",), retired=(retired,)
    )


def test_an_operator_is_issued_on_the_spot_where_the_cas_key_is(tmp_path: Path):
    keystore.ensure_authority(tmp_path, MESH, NOW_MS)
    identity = operator.operator_identity(tmp_path, MESH, "alpha", NOW_MS)
    assert identity.id == f"spiffe://{MESH}/operator/alpha"
    assert identity.not_after_ms == NOW_MS + 3600 * 1000
    sealed = envelope.seal(operator.evict("rag", "beta", None)({**PLACE, "node": "alpha"}), identity)
    trust = Trust(MESH, keystore.read_roots(tmp_path))
    trust.admit(identity.certificate_der)
    (verified,) = envelope.unseal(sealed, trust, time_ms=NOW_MS, position=1)
    assert verified.signer == identity.id
    (tmp_path / keystore.CA_KEY).unlink()
    with pytest.raises(PkiError):
        operator.operator_identity(tmp_path, MESH, "alpha", NOW_MS)


def test_only_an_operators_certificate_decrees():
    authority = Authority()
    of_operator = authority.identity("root", "operator").certificate.public_bytes(Encoding.DER)
    assert operator._operator_of(of_operator) == (MESH, "root")
    with pytest.raises(PkiError, match="not of an operator"):
        operator._operator_of(authority.identity("alpha").der)


@pytest.mark.parametrize(
    ("text", "fingerprints"),
    [
        ("jetson", ["aaaaaaaa2", "aaaaaaaa1", "bbbbbbbb"]),
        ("Jetson", ["aaaaaaaa2", "aaaaaaaa1", "bbbbbbbb"]),
        ("node/jetson", ["aaaaaaaa2", "aaaaaaaa1", "bbbbbbbb"]),
        ("service/jetson", ["cccccccc"]),
        ("operator/jetson", ["dddddddd"]),
        ("aaaaaaaa2", ["aaaaaaaa2"]),
        ("CC:CC:CC:CC", ["cccccccc"]),
        ("cccccccc".ljust(64, "0"), ["cccccccc"]),
        ("node/beefbeef", ["eeeeeeee"]),
        ("beefbeef0", ["beefbeef"]),
        ("f" * 64, ["f" * 64]),
    ],
)
def test_a_name_means_all_of_its_certificates_and_digits_mean_one(text: str, fingerprints: list[str]):
    assert meant(text) == fingerprints


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("aaaaaaaa", InvalidFieldError, "begins 2 of them; give more digits"),
        ("beefbeef", InvalidFieldError, "both a node and a fingerprint; say node/beefbeef"),
        ("host/jetson", InvalidFieldError, "the kinds are node, service, operator"),
        ("no name", InvalidFieldError, "is not"),
        ("", InvalidFieldError, "is not"),
        ("aaaa", NotFoundError, "no certificate of 'aaaa' is known"),
        ("nobody", NotFoundError, "no certificate of 'nobody' is known"),
        ("0123456789", NotFoundError, "is known"),
    ],
)
def test_what_means_none_or_several_is_refused(text: str, error: type[Exception], problem: str):
    with pytest.raises(error, match=problem):
        meant(text)


def test_of_more_than_an_event_holds_those_that_ended_first_are_left_out():
    ended = [shown("operator/busy", f"{number:08x}", -1 - number) for number in range(1200)]
    valid = [shown("operator/busy", "ffffffff", 5)]
    found = revocation.chosen("operator/busy", MESH, [*ended, *valid], NOW_MS)
    assert len(found) == 1000
    assert found[0] == valid[0]
    assert found[-1].not_after_ms > NOW_MS - 1001 * 1000
    still_valid = [shown("operator/busy", f"{number:08x}", 1 + number) for number in range(1001)]
    with pytest.raises(CapacityError):
        revocation.chosen("operator/busy", MESH, still_valid, NOW_MS)


def test_what_is_no_certificate_in_the_bucket_is_left_out():
    authority = Authority()
    alpha = authority.identity("alpha")
    described = revocation._described(alpha.der)
    assert described is not None
    assert (described.identity, described.fingerprint) == (f"spiffe://{MESH}/node/alpha", alpha.fingerprint)
    assert revocation._described(b"junk") is None
