"""Certificate signing requests: what they ask for, and what makes one unreadable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.errors import CertificateRequestRejected
from pmoves_mesh.pki.requests import key_id, make_request, read_request

MESH = "test-mesh"
ID = f"spiffe://{MESH}/node/alpha"
KEY = ec.generate_private_key(ec.SECP256R1())


def request_with(names: list[x509.GeneralName] | None, key: object = KEY) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("kind", ["node", "service", "operator"])
def test_a_request_is_read_as_it_was_made(kind: str):
    addresses = (IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    pem = make_request(MESH, kind, "alpha", KEY, ("alpha", "alpha.lan"), addresses)  # type: ignore[arg-type]
    read = read_request(pem, MESH)
    assert (read.kind, read.name) == (kind, "alpha")
    assert read.dns_names == ("alpha", "alpha.lan")
    assert read.ip_addresses == addresses
    assert read.public_key == KEY.public_key()
    assert read.key_id == key_id(KEY.public_key())


def test_a_request_holds_the_names_and_no_key():
    request = x509.load_pem_x509_csr(make_request(MESH, "node", "alpha", KEY, ("alpha",)).encode())
    assert {one.oid for one in request.extensions} == {ExtensionOID.SUBJECT_ALTERNATIVE_NAME}
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
    assert names.get_values_for_type(x509.DNSName) == ["alpha"]
    assert len(names) == 2


def test_the_id_of_a_key_is_the_hash_that_a_nats_server_pins():
    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_id(KEY.public_key()) == hashlib.sha256(der).hexdigest()


def test_the_identity_comes_from_the_uri_and_not_from_the_subject():
    assert read_request(request_with([uri(ID)]), MESH).name == "alpha"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (None, "names no identity"),
        ([x509.DNSName("alpha")], "0 URI names"),
        ([uri(ID), uri(f"spiffe://{MESH}/node/beta")], "2 URI names"),
        ([uri("spiffe://other/node/alpha")], "no identity of mesh"),
        ([uri(f"spiffe://{MESH}/admin/alpha")], "no identity of mesh"),
        ([uri(f"spiffe://{MESH}/node/")], "no identity of mesh"),
        ([uri(f"spiffe://{MESH}/node/a/b")], "no identity of mesh"),
        ([uri(f"spiffe://{MESH}/node/Alpha")], "no identity of mesh"),
        ([uri(f"spiffe://{MESH}")], "no identity of mesh"),
        ([uri(ID), x509.DNSName("*.lan")], "not a host name"),
        ([uri(ID), x509.RFC822Name("a@b.c")], "nothing else"),
        ([uri(ID), x509.IPAddress(IPv4Network("10.0.0.0/8"))], "not a network|no certificate signing"),
        ([uri(ID), *(x509.DNSName(f"n{n}") for n in range(65))], "at most 64"),
    ],
)
def test_a_request_that_does_not_name_one_identity_of_the_mesh_is_rejected(
    names: list[x509.GeneralName] | None, problem: str
):
    with pytest.raises(CertificateRequestRejected, match=problem):
        read_request(request_with(names), MESH)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
)
def test_a_request_for_another_kind_of_key_is_rejected(make: Callable[[], object]):
    with pytest.raises(CertificateRequestRejected, match="P-256"):
        read_request(request_with([uri(ID)], make()), MESH)


def test_a_request_for_somebody_elses_key_is_rejected():
    mine = x509.load_pem_x509_csr(request_with([uri(ID)]).encode()).public_bytes(Encoding.DER)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    theirs = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    swapped = mine.replace(own, theirs)
    assert swapped != mine
    pem = x509.load_der_x509_csr(swapped).public_bytes(Encoding.PEM).decode()
    with pytest.raises(CertificateRequestRejected, match="own key"):
        read_request(pem, MESH)


@given(st.text(max_size=200))
def test_whatever_is_no_request_is_rejected_and_nothing_else(text: str):
    framed = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"
    for pem in (text, framed):
        with pytest.raises(CertificateRequestRejected):
            read_request(pem, MESH)


def test_a_request_of_endless_length_is_not_even_parsed():
    with pytest.raises(CertificateRequestRejected, match="characters"):
        read_request(request_with([uri(ID)]) + "\n" * 20_000, MESH)


GOOD = x509.load_pem_x509_csr(request_with([uri(ID), x509.DNSName("alpha")]).encode()).public_bytes(
    Encoding.DER
)


@given(st.data())
def test_a_request_with_a_byte_changed_never_asks_for_anything_else(data: st.DataObject):
    place = data.draw(st.integers(0, len(GOOD) - 1))
    changed = GOOD[:place] + bytes([GOOD[place] ^ data.draw(st.integers(1, 255))]) + GOOD[place + 1 :]
    try:
        pem = x509.load_der_x509_csr(changed).public_bytes(Encoding.PEM).decode()
    except (ValueError, x509.InvalidVersion):
        return
    try:
        read = read_request(pem, MESH)
    except CertificateRequestRejected:
        return
    assert (read.kind, read.name, read.dns_names) == ("node", "alpha", ("alpha",))
