"""A new CA in the place of the old one: both are believed meanwhile, and a crash at any step is no loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.core.trust import Trust, fingerprint
from pmoves_mesh.errors import PkiError, UntrustedIssuer
from pmoves_mesh.pki import files, keystore, rotation
from pmoves_mesh.pki.files import write_certificate, write_key
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.pki.operator import operator_identity
from pmoves_mesh.pki.rotation import begin_rotation, finish_rotation, load_authority_of, rotation_state
from pmoves_mesh.pki.templates import CertificateRequest

MESH = "test-mesh"
NOW_MS = 1_800_000_000_000
LATER_MS = NOW_MS + 86_400_000


class Crash(Exception):
    """The machine stops here."""


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    keystore.ensure_authority(tmp_path / "tls", MESH, NOW_MS)
    return tmp_path / "tls"


def open_identity(tls_dir: Path, now_ms: int = LATER_MS) -> Identity:
    return keystore.open_identity(tls_dir.parent / "identity", tls_dir, MESH, "alpha", [], now_ms)


def trust_of(tls_dir: Path) -> Trust:
    return Trust(MESH, keystore.read_roots(tls_dir))


def names_in(tls_dir: Path) -> set[str]:
    return {path.name for path in tls_dir.iterdir()}


def test_a_rotation_makes_a_new_authority_and_keeps_the_old_one_behind_it(tls_dir: Path):
    (old,) = keystore.read_roots(tls_dir)
    before = open_identity(tls_dir, NOW_MS)
    begun = begin_rotation(tls_dir, MESH, LATER_MS)
    assert begun.step == rotation_state(tls_dir).step == "under_way"
    assert begun.root != old
    assert begun.retiring == (old,)
    assert keystore.read_roots(tls_dir) == (begun.root, old)
    assert keystore.load_authority(tls_dir, MESH).certificate == begun.root
    assert names_in(tls_dir) == {"ca.crt", "ca.key", "ca-old.key"}
    assert (tls_dir / "ca-old.key").stat().st_mode & 0o777 == 0o600
    after = open_identity(tls_dir)
    assert (before.root, after.root) == (fingerprint(old), fingerprint(begun.root))
    assert after.key.public_key() == before.key.public_key()
    trust = trust_of(tls_dir)
    assert trust.admit(before.certificate_der).id == trust.admit(after.certificate_der).id


def test_a_finished_rotation_leaves_the_new_authority_alone(tls_dir: Path):
    (old,) = keystore.read_roots(tls_dir)
    before = open_identity(tls_dir, NOW_MS)
    begun = begin_rotation(tls_dir, MESH, LATER_MS)
    assert finish_rotation(tls_dir) == (old,)
    assert rotation_state(tls_dir).step == "none"
    assert keystore.read_roots(tls_dir) == (begun.root,)
    assert names_in(tls_dir) == {"ca.crt", "ca.key"}
    with pytest.raises(UntrustedIssuer):
        trust_of(tls_dir).admit(before.certificate_der)


def test_each_step_may_be_run_again(tls_dir: Path):
    assert finish_rotation(tls_dir) == ()
    begun = begin_rotation(tls_dir, MESH, LATER_MS)
    assert begin_rotation(tls_dir, MESH, LATER_MS + 1) == begun
    finish_rotation(tls_dir)
    assert finish_rotation(tls_dir) == ()
    assert keystore.read_roots(tls_dir) == (begun.root,)
    again = begin_rotation(tls_dir, MESH, LATER_MS + 2)
    assert again.retiring == (begun.root,)


@pytest.mark.parametrize("step", range(5))
def test_a_rotation_that_a_crash_cut_off_goes_on_from_there(
    tls_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    (old,) = keystore.read_roots(tls_dir)
    before = open_identity(tls_dir, NOW_MS)
    count = crash_at(monkeypatch, step)
    with pytest.raises(Crash):
        begin_rotation(tls_dir, MESH, LATER_MS)
    assert count() == step + 1
    monkeypatch.undo()
    assert keystore.load_authority(tls_dir, MESH).mesh == MESH, "the CA is never without a key that fits"
    trust_of(tls_dir).admit(before.certificate_der)
    trust_of(tls_dir).admit(open_identity(tls_dir).certificate_der)
    begun = begin_rotation(tls_dir, MESH, LATER_MS + 1)
    assert begun.step == "under_way"
    assert begun.retiring == (old,)
    assert load_authority_of(tls_dir, MESH, fingerprint(old)).certificate == old
    assert keystore.load_authority(tls_dir, MESH).certificate == begun.root
    assert names_in(tls_dir) == {"ca.crt", "ca.key", "ca-old.key"}


@pytest.mark.parametrize("step", range(2))
def test_finishing_that_a_crash_cut_off_goes_on_from_there(
    tls_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    begun = begin_rotation(tls_dir, MESH, LATER_MS)
    crash_at(monkeypatch, step)
    with pytest.raises(Crash):
        finish_rotation(tls_dir)
    monkeypatch.undo()
    assert keystore.load_authority(tls_dir, MESH).certificate == begun.root
    finish_rotation(tls_dir)
    assert rotation_state(tls_dir).step == "none"
    assert keystore.read_roots(tls_dir) == (begun.root,)


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Stops before the `step`-th change on disk, counted from 0; returns how many were tried."""
    calls = 0
    whole, rename, unlink = files.write_whole, Path.replace, Path.unlink

    def at_a_step() -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Crash

    def write(path: Path, content: bytes, *, mode: int) -> None:
        at_a_step()
        whole(path, content, mode=mode)

    def move(path: Path, target: Path) -> Path:
        if not path.name.startswith("."):
            at_a_step()
        return rename(path, target)

    def remove(path: Path, *, missing_ok: bool = False) -> None:
        if not path.name.startswith("."):
            at_a_step()
        unlink(path, missing_ok=missing_ok)

    def sync(directory: Path) -> None:
        del directory
        at_a_step()

    monkeypatch.setattr(files, "write_whole", write)
    monkeypatch.setattr(Path, "replace", move)
    monkeypatch.setattr(Path, "unlink", remove)
    monkeypatch.setattr(rotation, "sync_directory", sync)
    return lambda: calls


def test_a_rotation_that_was_cut_off_cannot_be_finished_before_it_has_begun(tls_dir: Path):
    write_key(tls_dir / "ca-new.key", ec.generate_private_key(ec.SECP256R1()))
    assert rotation_state(tls_dir).step == "begun"
    with pytest.raises(PkiError, match="begin it again"):
        finish_rotation(tls_dir)


def test_the_new_key_has_the_passphrase_of_the_old_one(tmp_path: Path):
    tls_dir = tmp_path / "tls"
    keystore.ensure_authority(tls_dir, MESH, NOW_MS, "correct horse")
    with pytest.raises(PkiError, match="MESH_PASSPHRASE"):
        begin_rotation(tls_dir, MESH, LATER_MS)
    assert names_in(tls_dir) == {"ca.crt", "ca.key"}
    begin_rotation(tls_dir, MESH, LATER_MS, "correct horse")
    for name in ("ca.key", "ca-old.key"):
        assert b"ENCRYPTED" in (tls_dir / name).read_bytes()
    assert keystore.load_authority(tls_dir, MESH, "correct horse").mesh == MESH


def test_without_the_authority_there_is_nothing_to_rotate(tls_dir: Path):
    (tls_dir / "ca.key").unlink()
    with pytest.raises(PkiError, match=r"ca\.key"):
        begin_rotation(tls_dir, MESH, LATER_MS)
    assert names_in(tls_dir) == {"ca.crt"}


# An operator's identity


def test_with_the_authority_at_hand_an_operator_is_made_on_the_spot_for_an_hour(tls_dir: Path):
    made = operator_identity(tls_dir, MESH, "alpha", NOW_MS)
    assert made.id == f"spiffe://{MESH}/operator/alpha"
    assert made.not_after_ms == NOW_MS + 3_600_000
    assert names_in(tls_dir) == {"ca.crt", "ca.key"}, "nothing of it is kept"
    signer = trust_of(tls_dir).admit(made.certificate_der)
    assert signer.verifies(made.sign(b"statement"), b"statement")


def test_during_a_rotation_either_authority_can_make_the_operator(tls_dir: Path):
    (old,) = keystore.read_roots(tls_dir)
    begun = begin_rotation(tls_dir, MESH, LATER_MS)
    assert operator_identity(tls_dir, MESH, "alpha", LATER_MS).root == fingerprint(begun.root)
    for root in (old, begun.root):
        made = operator_identity(tls_dir, MESH, "alpha", LATER_MS, None, fingerprint(root))
        assert made.root == fingerprint(root)
    with pytest.raises(PkiError, match="does not hold the CA certificate"):
        operator_identity(tls_dir, MESH, "alpha", LATER_MS, None, "0" * 64)


def test_an_operator_that_is_kept_is_used_while_it_holds(tls_dir: Path):
    key = ec.generate_private_key(ec.SECP256R1())
    authority = keystore.load_authority(tls_dir, MESH)
    request = CertificateRequest(kind="operator", name="eve", public_key=key.public_key(), lifetime_s=60)
    write_key(tls_dir / "operator.key", key)
    write_certificate(tls_dir / "operator.crt", authority.issue(request, NOW_MS))
    assert operator_identity(tls_dir, MESH, "alpha", NOW_MS).id == f"spiffe://{MESH}/operator/eve"
    assert operator_identity(tls_dir, MESH, "alpha", LATER_MS).id == f"spiffe://{MESH}/operator/alpha"
    (tls_dir / "ca.key").unlink()
    assert operator_identity(tls_dir, MESH, "alpha", NOW_MS).key.public_key() == key.public_key()
    with pytest.raises(PkiError, match="certs issue alpha --operator"):
        operator_identity(tls_dir, MESH, "alpha", LATER_MS)


def test_a_node_is_no_operator_even_under_an_operators_file_name(tls_dir: Path):
    identity = open_identity(tls_dir, NOW_MS)
    write_key(tls_dir / "operator.key", identity.key)
    write_certificate(tls_dir / "operator.crt", identity.certificate)
    with pytest.raises(PkiError, match="is that of spiffe://test-mesh/node/alpha"):
        operator_identity(tls_dir, MESH, "alpha", NOW_MS)
