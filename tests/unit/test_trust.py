"""Trust: which certificates are believed, and as whom."""

from __future__ import annotations

import datetime as dt

import pytest
from builders import BEGIN, END, MESH, Authority, Identity
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pmoves_mesh.core.trust import Trust, fingerprint
from pmoves_mesh.errors import UntrustedIssuer

AUTHORITY = Authority()
NODE = f"spiffe://{MESH}/node/alpha"


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("kind", ["node", "service", "operator"])
def test_a_certificate_of_the_mesh_is_admitted_as_whom_it_names(kind: str):
    identity = AUTHORITY.identity("alpha", kind, admit=False)
    signer = AUTHORITY.trust.admit(identity.der)
    assert (signer.mesh, signer.kind, signer.name) == (MESH, kind, "alpha")
    assert signer.id == f"spiffe://{MESH}/{kind}/alpha"
    assert signer.fingerprint == identity.fingerprint
    assert signer.not_before_ms == BEGIN.timestamp() * 1000
    assert signer.not_after_ms == END.timestamp() * 1000


def test_an_admitted_certificate_is_found_by_its_fingerprint():
    identity = AUTHORITY.identity("beta", admit=False)
    assert AUTHORITY.trust.signer(identity.fingerprint) is None
    signer = AUTHORITY.trust.admit(identity.der)
    assert AUTHORITY.trust.signer(identity.fingerprint) is signer
    assert AUTHORITY.trust.admit(identity.der) is signer
    assert AUTHORITY.trust.certificate(identity.fingerprint) == identity.der
    assert AUTHORITY.trust.certificate("unknown") is None


def test_a_signer_verifies_what_its_key_signed_and_nothing_else():
    identity = AUTHORITY.identity("alpha")
    signer = AUTHORITY.trust.admit(identity.der)
    signature = identity.sign(b"statement")
    assert signer.verifies(signature, b"statement")
    assert not signer.verifies(signature, b"Statement")
    assert not signer.verifies(b"", b"statement")
    assert not signer.verifies(AUTHORITY.identity("beta").sign(b"statement"), b"statement")


def test_the_roots_that_hold_are_told_by_fingerprint():
    assert AUTHORITY.trust.root_fingerprints == (fingerprint(AUTHORITY.root),)


def test_several_roots_can_hold_at_once():
    other = Authority()
    trust = Trust(MESH, [AUTHORITY.root, other.root])
    for authority in (AUTHORITY, other):
        assert trust.admit(authority.identity("alpha", admit=False).der).name == "alpha"


def test_a_certificate_that_ran_out_is_still_admitted_for_the_events_of_its_time():
    past = dt.timedelta(days=1)
    old = AUTHORITY.identity("alpha", admit=False, begin=BEGIN - past / 2, end=BEGIN)
    assert AUTHORITY.trust.admit(old.der).not_after_ms == BEGIN.timestamp() * 1000


def test_a_certificate_of_another_ca_is_refused():
    with pytest.raises(UntrustedIssuer, match="does not chain to this mesh's CA"):
        AUTHORITY.trust.admit(Authority().identity("alpha", admit=False).der)


def test_a_certificate_from_before_its_ca_is_refused():
    early = AUTHORITY.identity("alpha", admit=False, begin=BEGIN - dt.timedelta(days=30))
    with pytest.raises(UntrustedIssuer, match="does not chain"):
        AUTHORITY.trust.admit(early.der)


@pytest.mark.parametrize(
    ("uris", "problem"),
    [
        ([], "has 0 URI names"),
        ([NODE, f"spiffe://{MESH}/node/beta"], "has 2 URI names"),
        (["spiffe://other/node/alpha"], "is no identity of mesh pmoves-mesh"),
        ([f"spiffe://{MESH}-2/node/alpha"], "is no identity"),
        ([f"spiffe://{MESH}/robot/alpha"], "is no identity"),
        ([f"spiffe://{MESH}/node/"], "is no identity"),
        ([f"spiffe://{MESH}/node/alpha/beta"], "is no identity"),
        ([f"https://{MESH}/node/alpha"], "is no identity"),
        ([f"spiffe://{MESH}"], "is no identity"),
    ],
)
def test_a_certificate_that_is_no_svid_of_the_mesh_is_refused(uris: list[str], problem: str):
    with pytest.raises(UntrustedIssuer, match=problem):
        AUTHORITY.trust.admit(_der(AUTHORITY.certificate(uris, _p256())))


def test_a_certificate_without_alternative_names_is_refused():
    with pytest.raises(UntrustedIssuer, match="does not chain"):
        AUTHORITY.trust.admit(_der(AUTHORITY.certificate([], _p256(), names=False)))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_key_of_another_kind_than_p_256_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
):
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.trust.admit(_der(AUTHORITY.certificate([NODE], key)))


def test_a_certificate_signed_by_a_node_instead_of_the_ca_is_refused():
    node = AUTHORITY.identity("alpha")
    impostor = Authority()
    impostor.key = node.key
    with pytest.raises(UntrustedIssuer, match="does not chain"):
        AUTHORITY.trust.admit(impostor.identity("beta", admit=False).der)


def test_the_ca_itself_is_no_signer():
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.trust.admit(_der(AUTHORITY.root))


@pytest.mark.parametrize("der", [b"", b"0", b"not a certificate", b"0\x82\xff\xff"])
def test_bytes_that_are_no_certificate_are_refused(der: bytes):
    with pytest.raises(UntrustedIssuer, match="does not chain"):
        AUTHORITY.trust.admit(der)


def test_a_certificate_of_an_unknown_version_is_refused():
    der = Identity(AUTHORITY.certificate([NODE], _p256()), _p256()).der
    version = der.index(b"\xa0\x03\x02\x01\x02")
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.trust.admit(der[: version + 4] + b"\x07" + der[version + 5 :])
