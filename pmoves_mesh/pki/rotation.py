"""A new CA in the place of the old one, as files, in steps that a crash may part anywhere.

While it is under way `ca.crt` holds both roots, the new one first, `ca.key` is the new one's key,
and `ca-old.key` the old one's: the mesh believes both, and new certificates come from the new one.

    nothing   ca.key = old    ca.crt = old
    1         ca-new.key = new
    2         ca.crt = new, old         (the old key still signs)
    3         ca-old.key = old
    4         ca-new.key becomes ca.key (the new key signs): under way
    finish 1  ca.crt = new
    finish 2  ca-old.key goes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import PkiError
from pmoves_mesh.pki.authority import Authority
from pmoves_mesh.pki.files import locked, read_key, sync_directory, write_key
from pmoves_mesh.pki.keystore import (
    CA_CERTIFICATE,
    CA_KEY,
    CA_KEY_NEW,
    CA_KEY_OLD,
    load_authority,
    read_roots,
    write_roots,
)

RotationStep = Literal["none", "begun", "under_way", "finishing"]

_KEYS: Final = (CA_KEY, CA_KEY_OLD, CA_KEY_NEW)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """How far the CA's rotation is.

    Attributes:
        step: `none`; `begun`, when it was cut off and has to be begun again; `under_way`, when the new
            CA issues and the old one is still believed; `finishing`, when finishing was cut off.
        root: the CA certificate that stands first.
        retiring: those that go when it is finished.
    """

    step: RotationStep
    root: x509.Certificate
    retiring: tuple[x509.Certificate, ...]


def rotation_state(tls_dir: Path) -> Rotation:
    """Returns how far the CA's rotation is, from the files alone.

    Raises:
        PkiError: if the roots cannot be read.
    """
    root, *retiring = read_roots(tls_dir)
    step: RotationStep = "none"
    if (tls_dir / CA_KEY_NEW).exists():
        step = "begun"
    elif (tls_dir / CA_KEY_OLD).exists():
        step = "under_way" if retiring else "finishing"
    return Rotation(step=step, root=root, retiring=tuple(retiring))


def begin_rotation(tls_dir: Path, mesh: str, now_ms: int, passphrase: str | None = None) -> Rotation:
    """Makes a new CA that issues from now on, beside the old one; goes on where it was cut off.

    One that is under way already is left as it is.

    Args:
        tls_dir: where the CA is.
        mesh: the trust domain.
        now_ms: unix milliseconds.
        passphrase: of the CA's key; the new key is encrypted with it too.

    Raises:
        PkiError: if the CA's key is not at hand, or a file cannot be written.
    """
    with locked(tls_dir):
        state = rotation_state(tls_dir)
        if state.step == "under_way":
            return state
        if state.step == "finishing":
            (tls_dir / CA_KEY_OLD).unlink()
        old = load_authority(tls_dir, mesh, passphrase)
        key = _new_key(tls_dir, passphrase)
        roots = read_roots(tls_dir)
        if roots[0].public_key() != key.public_key():
            write_roots(tls_dir, (Authority.create(mesh, now_ms, key).certificate, *roots))
        write_key(tls_dir / CA_KEY_OLD, old.key, passphrase)
        (tls_dir / CA_KEY_NEW).replace(tls_dir / CA_KEY)
        sync_directory(tls_dir)
        return rotation_state(tls_dir)


def finish_rotation(tls_dir: Path) -> tuple[x509.Certificate, ...]:
    """Drops every CA certificate but the one that issues, and the old key; may run again.

    Returns:
        The CA certificates that it dropped.

    Raises:
        PkiError: if a rotation was begun and cut off, or a file cannot be written.
    """
    with locked(tls_dir):
        state = rotation_state(tls_dir)
        if state.step == "begun":
            raise PkiError(f"{tls_dir}: the rotation of the CA was cut off while it began: begin it again")
        if state.step == "under_way":
            write_roots(tls_dir, (state.root,))
        (tls_dir / CA_KEY_OLD).unlink(missing_ok=True)
        sync_directory(tls_dir)
        return state.retiring if state.step == "under_way" else ()


def load_authority_of(tls_dir: Path, mesh: str, root: str, passphrase: str | None = None) -> Authority:
    """Returns the CA whose certificate has a fingerprint; during a rotation there are two.

    Raises:
        PkiError: if its certificate or its key is not here.
        KeyPermission: if others can read the key.
    """
    for certificate in read_roots(tls_dir):
        if fingerprint(certificate) != root:
            continue
        for path in (tls_dir / name for name in _KEYS):
            if path.exists() and (key := read_key(path, passphrase)).public_key() == certificate.public_key():
                return Authority(mesh, certificate, key)
        raise PkiError(f"{tls_dir}: the key of the CA certificate {root[:16]}... is not here")
    raise PkiError(f"{tls_dir / CA_CERTIFICATE} does not hold the CA certificate {root[:16]}...")


def _new_key(tls_dir: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    path = tls_dir / CA_KEY_NEW
    if path.exists():
        return read_key(path, passphrase)
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(path, key, passphrase)
    return key
