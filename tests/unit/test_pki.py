"""The authority: what its certificates say and do not say, and the files they are kept in."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import (
    CertificateExpired,
    CertificateRequestRejected,
    KeyPermission,
    PkiError,
    UntrustedIssuer,
)
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.authority import CA_LIFETIME_S, Authority
from pmoves_mesh.pki.files import read_certificates, read_key, write_key
from pmoves_mesh.pki.rotation import begin_rotation
from pmoves_mesh.pki.templates import NODE_LIFETIME_S, CertificateRequest

MESH = "test-mesh"
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
ROOT = Path(__file__).resolve().parents[2]
SIX = {"ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create(MESH, NOW_MS)


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    return tmp_path / "tls"


@pytest.fixture
def identity_dir(tmp_path: Path) -> Path:
    return tmp_path / "data" / "identity"


def request_for(name: str = "alpha", **fields: Any) -> CertificateRequest:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return CertificateRequest(**({"kind": "node", "name": name, "public_key": key} | fields))


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str], list[Any]]:
    names = extension(certificate, x509.SubjectAlternativeName).value
    return (
        names.get_values_for_type(x509.UniformResourceIdentifier),
        names.get_values_for_type(x509.DNSName),
        names.get_values_for_type(x509.IPAddress),
    )


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# What certificates say


def test_the_root_signs_certificates_one_level_deep_and_nothing_else(authority: Authority):
    root = authority.certificate
    constraints = extension(root, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(root, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert root.not_valid_after_utc - root.not_valid_before_utc == timedelta(seconds=CA_LIFETIME_S, hours=1)
    assert names_of(root) == ([f"spiffe://{MESH}"], [], [])
    assert root.issuer == root.subject
    root.verify_directly_issued_by(root)


def test_an_identity_bears_one_spiffe_id_and_exactly_the_names_asked_for(authority: Authority):
    request = request_for(
        dns_names=("alpha", "alpha.lan"), ip_addresses=(IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))
    )
    certificate = authority.issue(request, NOW_MS)
    assert names_of(certificate) == (
        [f"spiffe://{MESH}/node/alpha"],
        ["alpha", "alpha.lan"],
        [IPv4Address("10.0.0.1"), IPv6Address("fd00::1")],
    )
    assert certificate.public_key() == request.public_key
    certificate.verify_directly_issued_by(authority.certificate)


def test_an_identity_has_every_extension_of_an_svid_and_no_other(authority: Authority):
    certificate = authority.issue(request_for(), NOW_MS)
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    others = ("content_commitment", "key_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    assert not any(getattr(usage.value, other) for other in others)
    assert set(extension(certificate, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    issuer_key = extension(authority.certificate, x509.SubjectKeyIdentifier).value.digest
    assert extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == issuer_key
    assert {found.oid for found in certificate.extensions} == {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }


def test_an_identity_holds_from_its_backdate_for_its_lifetime(authority: Authority):
    later_ms = NOW_MS + DAY_MS
    certificate = authority.issue(request_for(lifetime_s=100, backdate_s=50), later_ms)
    assert certificate.not_valid_before_utc.timestamp() == later_ms / 1000 - 50
    assert certificate.not_valid_after_utc.timestamp() == later_ms / 1000 + 100
    usual = authority.issue(request_for(), later_ms)
    assert usual.not_valid_after_utc.timestamp() == later_ms / 1000 + NODE_LIFETIME_S


def test_an_identity_neither_begins_before_its_authority_nor_outlasts_it(authority: Authority):
    early = authority.issue(request_for(backdate_s=86400), NOW_MS)
    assert early.not_valid_before_utc == authority.certificate.not_valid_before_utc
    late = authority.issue(request_for(), authority.not_after_ms - DAY_MS)
    assert late.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_what_an_identity_allows_stands_in_its_subject_and_reaches_the_signer(authority: Authority):
    certificate = authority.issue(request_for(allow=("whisper-*", "rag")), NOW_MS)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    assert [unit.value for unit in units] == ["whisper-*", "rag"]
    signer = Trust(MESH, [authority.certificate]).admit(certificate.public_bytes(Encoding.DER))
    assert signer.allow == ("whisper-*", "rag")
    unlimited = authority.issue(request_for(), NOW_MS)
    assert [attribute.oid for attribute in unlimited.subject] == [NameOID.COMMON_NAME]


def test_two_certificates_never_share_a_serial_number(authority: Authority):
    request = request_for()
    assert len({authority.issue(request, NOW_MS).serial_number for _ in range(10)}) == 10


@pytest.mark.parametrize("kind", ["node", "service", "operator"])
def test_what_is_issued_is_admitted_by_the_trust_of_its_mesh_alone(authority: Authority, kind: str):
    request = request_for(kind=kind, dns_names=("a_b.lan",), ip_addresses=(IPv4Address("10.0.0.1"),))
    der = authority.issue(request, NOW_MS).public_bytes(Encoding.DER)
    signer = Trust(MESH, [authority.certificate]).admit(der)
    assert signer.id == f"spiffe://{MESH}/{kind}/alpha"
    with pytest.raises(UntrustedIssuer):
        Trust("other", [authority.certificate]).admit(der)
    with pytest.raises(UntrustedIssuer):
        Trust(MESH, [Authority.create(MESH, NOW_MS).certificate]).admit(der)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "admin"},
        {"name": "Alpha"},
        {"name": "a/b"},
        {"name": ""},
        {"dns_names": ("*.lan",)},
        {"dns_names": ("a b",)},
        {"dns_names": ("host:80",)},
        {"dns_names": tuple(f"n{number}" for number in range(65))},
        {"lifetime_s": 0},
        {"lifetime_s": 399 * 86400},
        {"backdate_s": -1},
        {"backdate_s": 86401},
        {"allow": ("whisper *",)},
        {"allow": ("Whisper",)},
        {"allow": ("rag", "rag")},
        {"allow": tuple(f"n{number}" for number in range(33))},
        {"public_key": ec.generate_private_key(ec.SECP384R1()).public_key()},
    ],
)
def test_a_request_out_of_bounds_is_rejected(authority: Authority, fields: dict[str, Any]):
    with pytest.raises(CertificateRequestRejected):
        authority.issue(request_for(**fields), NOW_MS)


def test_an_authority_signs_only_while_it_holds(authority: Authority):
    with pytest.raises(CertificateRequestRejected, match="clock"):
        authority.issue(request_for(), NOW_MS - DAY_MS)
    with pytest.raises(CertificateExpired):
        authority.issue(request_for(), authority.not_after_ms)


def test_an_authority_is_refused_with_a_foreign_key_or_for_a_foreign_mesh(authority: Authority):
    with pytest.raises(PkiError, match="does not belong"):
        Authority(MESH, authority.certificate, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(PkiError, match="not of mesh other"):
        Authority("other", authority.certificate, authority.key)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = authority.issue(request_for(public_key=leaf_key.public_key()), NOW_MS)
    with pytest.raises(PkiError, match="not one that can sign"):
        Authority(MESH, leaf, leaf_key)


# The files of the TLS directory


def test_init_makes_exactly_six_files_with_keys_for_their_owner_alone(tls_dir: Path):
    made, kept = keystore.init(tls_dir, MESH, "alpha", ["mesh.lan", "10.0.0.9", "[fd00::9%eth0]"], NOW_MS)
    assert {path.name for path in made} == {path.name for path in tls_dir.iterdir()} == SIX
    assert kept == []
    assert {mode_of(path) for path in tls_dir.glob("*.key")} == {0o600}
    assert {mode_of(path) for path in tls_dir.glob("*.crt")} == {0o644}
    (server,) = read_certificates(tls_dir / "server.crt")
    uris, dns_names, addresses = names_of(server)
    assert uris == [f"spiffe://{MESH}/service/nats"]
    assert dns_names == ["alpha", "localhost", "mesh.lan"]
    assert set(map(str, addresses)) == {"127.0.0.1", "::1", "10.0.0.9", "fd00::9"}
    (client,) = read_certificates(tls_dir / "client.crt")
    assert names_of(client)[0] == [f"spiffe://{MESH}/service/client-alpha"]
    trust = Trust(MESH, keystore.read_roots(tls_dir))
    for certificate in (server, client):
        assert trust.admit(certificate.public_bytes(Encoding.DER)).mesh == MESH
    for stem in ("ca", "server", "client"):
        key = read_key(tls_dir / f"{stem}.key")
        assert key.public_key() == read_certificates(tls_dir / f"{stem}.crt")[0].public_key()


def test_init_a_second_time_keeps_everything(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    before = bytes_of(tls_dir)
    made, kept = keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    assert made == []
    assert {path.name for path in kept} == SIX
    assert bytes_of(tls_dir) == before


def test_init_with_force_makes_all_six_anew(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    before = bytes_of(tls_dir)
    made, kept = keystore.init(tls_dir, MESH, "alpha", [], NOW_MS, force=True)
    assert {path.name for path in made} == SIX
    assert kept == []
    assert not set(before.values()) & set(bytes_of(tls_dir).values())


def test_init_with_force_ends_a_rotation(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    begin_rotation(tls_dir, MESH, NOW_MS)
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS, force=True)
    assert {path.name for path in tls_dir.iterdir()} == SIX
    assert len(keystore.read_roots(tls_dir)) == 1


def test_the_client_of_a_host_with_a_long_name_still_has_a_name_of_its_own(tls_dir: Path):
    keystore.init(tls_dir, MESH, "a" * 55 + "-" + "b" * 7, [], NOW_MS)
    (client,) = read_certificates(tls_dir / "client.crt")
    assert names_of(client)[0] == [f"spiffe://{MESH}/service/client-{'a' * 55}"]


@pytest.mark.parametrize("missing", [["server.crt"], ["ca.crt"], ["client.crt", "client.key"]])
def test_init_completes_what_is_missing_and_keeps_the_rest(tls_dir: Path, missing: list[str]):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    before = bytes_of(tls_dir)
    for name in missing:
        (tls_dir / name).unlink()
    made, kept = keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    assert {path.name for path in made} == set(missing)
    assert {path.name for path in kept} == SIX - set(missing)
    after = bytes_of(tls_dir)
    assert all(after[path.name] == before[path.name] for path in kept)
    trust = Trust(MESH, keystore.read_roots(tls_dir))
    for name in ("server.crt", "client.crt"):
        trust.admit(read_certificates(tls_dir / name)[0].public_bytes(Encoding.DER))


def test_init_runs_again_where_the_ca_key_was_taken_away_on_purpose(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    (tls_dir / "ca.key").unlink()
    made, kept = keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    assert made == []
    assert {path.name for path in kept} == SIX - {"ca.key"}


def test_init_does_not_replace_a_certificate_whose_key_is_gone(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    before = (tls_dir / "server.crt").read_bytes()
    (tls_dir / "server.key").unlink()
    with pytest.raises(PkiError, match=r"server\.key"):
        keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    assert (tls_dir / "server.crt").read_bytes() == before


def test_init_in_two_processes_at_once_makes_one_set(tls_dir: Path):
    program = (
        "import sys; from pathlib import Path; from pmoves_mesh.pki import keystore\n"
        f"sys.stdin.read(1); made, _ = keystore.init(Path(sys.argv[1]), {MESH!r}, 'alpha', [], {NOW_MS})\n"
        "print(len(made))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, tls_dir],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [run.communicate("x", timeout=60)[0].strip() for run in runs]
    assert sorted(answers) == ["0", "6"]
    assert {path.name for path in tls_dir.iterdir()} == SIX
    assert keystore.load_authority(tls_dir, MESH).mesh == MESH


def test_a_passphrase_locks_the_ca_key_and_only_that(tls_dir: Path):
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS, passphrase="correct horse")
    assert b"ENCRYPTED" in (tls_dir / "ca.key").read_bytes()
    assert b"ENCRYPTED" not in (tls_dir / "server.key").read_bytes()
    assert keystore.load_authority(tls_dir, MESH, "correct horse").mesh == MESH
    with pytest.raises(PkiError, match="needs its passphrase"):
        keystore.load_authority(tls_dir, MESH)
    with pytest.raises(PkiError, match="passphrase is wrong"):
        keystore.load_authority(tls_dir, MESH, "wrong")
    (tls_dir / "client.crt").unlink()
    made, _ = keystore.init(tls_dir, MESH, "alpha", [], NOW_MS, passphrase="correct horse")
    assert [path.name for path in made] == ["client.crt"]


def test_a_node_opens_an_encrypted_authority_with_the_passphrase_and_not_without(
    tls_dir: Path, identity_dir: Path
):
    assert keystore.ensure_authority(tls_dir, MESH, NOW_MS, "correct horse")
    with pytest.raises(PkiError, match="MESH_PASSPHRASE"):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    opened = keystore.open_identity(
        identity_dir, tls_dir, MESH, "alpha", [], NOW_MS, passphrase="correct horse"
    )
    assert opened.id == f"spiffe://{MESH}/node/alpha"
    assert b"ENCRYPTED" not in (identity_dir / "node.key").read_bytes(), "the agent starts by itself"


def test_a_passphrase_for_a_key_that_has_none_is_refused(tls_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    with pytest.raises(PkiError, match="not encrypted"):
        keystore.load_authority(tls_dir, MESH, "superfluous")


def test_a_first_run_makes_the_authority_alone_and_once(tls_dir: Path):
    assert keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    assert {path.name for path in tls_dir.iterdir()} == {"ca.crt", "ca.key"}
    before = bytes_of(tls_dir)
    assert not keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    assert bytes_of(tls_dir) == before
    assert keystore.has_authority(tls_dir)


def test_a_host_with_only_the_roots_never_makes_an_authority_of_its_own(tls_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    (tls_dir / "ca.key").unlink()
    assert not keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    assert not keystore.has_authority(tls_dir)
    with pytest.raises(PkiError, match=r"ca\.key"):
        keystore.load_authority(tls_dir, MESH)


def test_several_roots_may_hold_while_the_authority_is_the_one_whose_key_is_here(tls_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    mine = (tls_dir / "ca.crt").read_bytes()
    older = Authority.create(MESH, NOW_MS - DAY_MS)
    keystore.write_certificate(tls_dir / "ca.crt", older.certificate)
    (tls_dir / "ca.crt").write_bytes((tls_dir / "ca.crt").read_bytes() + mine)
    assert len(keystore.read_roots(tls_dir)) == 2
    assert keystore.load_authority(tls_dir, MESH).certificate != older.certificate


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.write_text("nothing"), "not a private key"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: write_key(path, ec.generate_private_key(ec.SECP256R1())), "does not belong"),
        (lambda path: write_key(path, ec.generate_private_key(ec.SECP384R1())), "not an ECDSA P-256"),
    ],
)
def test_an_authority_that_cannot_be_used_is_refused_in_one_line(
    tls_dir: Path, spoil: Callable[[Path], None], problem: str
):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    spoil(tls_dir / "ca.key")
    with pytest.raises(PkiError, match=problem) as caught:
        keystore.load_authority(tls_dir, MESH)
    assert "\n" not in str(caught.value)
    assert str(tls_dir) in str(caught.value)


def test_roots_that_are_missing_or_damaged_are_named(tls_dir: Path):
    with pytest.raises(PkiError, match="join"):
        keystore.read_roots(tls_dir)
    tls_dir.mkdir()
    (tls_dir / "ca.crt").write_text("nothing")
    with pytest.raises(PkiError, match=r"ca\.crt: holds no certificate"):
        keystore.read_roots(tls_dir)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_use_is_refused(tls_dir: Path, mode: int):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    (tls_dir / "ca.key").chmod(mode)
    with pytest.raises(KeyPermission, match="chmod 600"):
        keystore.load_authority(tls_dir, MESH)


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PkiError, match="cannot be used"):
        keystore.init(tmp_path / "file" / "tls", MESH, "alpha", [], NOW_MS)


# A node's identity


def test_a_node_with_the_authority_at_hand_issues_its_own_identity(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    identity = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", ["10.0.0.1", "alpha.lan"], NOW_MS)
    assert identity.id == f"spiffe://{MESH}/node/alpha"
    assert identity.not_after_ms == NOW_MS + NODE_LIFETIME_S * 1000
    _, dns_names, addresses = names_of(identity.certificate)
    assert set(dns_names) == {"alpha", "localhost", "alpha.lan"}
    assert IPv4Address("10.0.0.1") in addresses
    assert mode_of(identity_dir / "node.key") == 0o600
    signer = Trust(MESH, keystore.read_roots(tls_dir)).admit(identity.certificate_der)
    assert signer.fingerprint == identity.fingerprint
    assert signer.verifies(identity.sign(b"statement"), b"statement")
    assert not signer.verifies(identity.sign(b"statement"), b"another")


def test_an_identity_is_the_same_when_opened_again(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    first = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", ["10.0.0.1"], NOW_MS)
    second = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", ["10.0.0.1"], NOW_MS + DAY_MS)
    assert second.fingerprint == first.fingerprint


def test_an_identity_is_renewed_with_its_key_at_two_thirds_of_its_time(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    first = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    before_ms, after_ms = first.renew_after_ms - 1, first.renew_after_ms
    assert NOW_MS + 19 * DAY_MS < before_ms < NOW_MS + 20 * DAY_MS
    same = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], before_ms)
    renewed = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], after_ms)
    assert same.fingerprint == first.fingerprint
    assert renewed.fingerprint != first.fingerprint
    assert renewed.certificate.public_key() == first.certificate.public_key()
    assert renewed.not_after_ms == after_ms // 1000 * 1000 + NODE_LIFETIME_S * 1000


def test_an_identity_is_issued_anew_when_the_node_has_another_address(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    moved = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", ["10.0.0.2"], NOW_MS)
    assert moved.covers(["alpha"], [IPv4Address("10.0.0.2")])


def test_without_the_authority_an_identity_is_used_until_it_ends(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    first = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    (tls_dir / "ca.key").unlink()
    last_ms = first.not_after_ms - 1
    late = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", ["10.0.0.2"], last_ms)
    assert late.fingerprint == first.fingerprint
    with pytest.raises(PkiError, match=r"expired.*pmoves-mesh join"):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], first.not_after_ms)


def test_without_authority_and_identity_a_node_is_told_what_to_do(tls_dir: Path, identity_dir: Path):
    with pytest.raises(PkiError, match=r"ca\.crt is missing: join"):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    (tls_dir / "ca.key").unlink()
    with pytest.raises(PkiError, match=r"ca\.key.*pmoves-mesh join"):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)


def test_the_identity_of_another_node_is_replaced_with_a_key_of_its_own(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    original = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    clone = keystore.open_identity(identity_dir, tls_dir, MESH, "beta", [], NOW_MS)
    assert clone.id == f"spiffe://{MESH}/node/beta"
    assert clone.certificate.public_key() != original.certificate.public_key()


def test_an_identity_of_an_authority_that_was_replaced_is_issued_anew(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    first = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS, force=True)
    second = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    assert second.fingerprint != first.fingerprint
    Trust(MESH, keystore.read_roots(tls_dir)).admit(second.certificate_der)


@pytest.mark.parametrize("damaged", ["node.crt", "node.key"])
def test_a_damaged_identity_is_issued_anew(tls_dir: Path, identity_dir: Path, damaged: str):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    (identity_dir / damaged).write_text("nothing")
    again = keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
    assert again.id == f"spiffe://{MESH}/node/alpha"


@pytest.mark.parametrize("exposed", ["identity", "authority"])
def test_an_exposed_key_stops_the_node(tls_dir: Path, identity_dir: Path, exposed: str):
    keystore.ensure_authority(tls_dir, MESH, NOW_MS)
    if exposed == "identity":
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)
        (identity_dir / "node.key").chmod(0o644)
    else:
        (tls_dir / "ca.key").chmod(0o644)
    with pytest.raises(KeyPermission):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)


def test_the_authority_of_another_mesh_is_refused(tls_dir: Path, identity_dir: Path):
    keystore.ensure_authority(tls_dir, "other", NOW_MS)
    with pytest.raises(PkiError, match="not of mesh test-mesh"):
        keystore.open_identity(identity_dir, tls_dir, MESH, "alpha", [], NOW_MS)


@pytest.mark.parametrize("host", ["localhost", "alpha", "10.0.0.9"])
def test_the_files_serve_for_mutual_tls_under_strict_rules(tls_dir: Path, host: str):
    keystore.init(tls_dir, MESH, "alpha", ["10.0.0.9"], SystemClock().now_ms())
    server = tls_side(ssl.PROTOCOL_TLS_SERVER, tls_dir, "server")
    server.verify_mode = ssl.CERT_REQUIRED
    client = tls_side(ssl.PROTOCOL_TLS_CLIENT, tls_dir, "client")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    for side in (here, there, here, there):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = there.getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("URI", f"spiffe://{MESH}/service/client-alpha"), ("DNS", "alpha"))


def tls_side(protocol: int, tls_dir: Path, stem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(tls_dir / "ca.crt")
    context.load_cert_chain(tls_dir / f"{stem}.crt", tls_dir / f"{stem}.key")
    return context
