"""Keys and certificates as files: written whole or not at all, and private keys for their owner alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.errors import KeyPermission, PkiError

_FILE_BYTES_MAX: Final = 1 << 20
_LOCK_TRIES: Final = 500
_LOCK_PAUSE_S: Final = 0.02


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Makes `directory` if need be, and keeps other processes from writing to it meanwhile.

    Waits at most 10 s for another process to finish; blocks the thread.

    Raises:
        PkiError: if the directory cannot be made or locked.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise PkiError(f"{directory}: cannot be used ({error.strerror})") from None
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        except OSError as error:
            raise PkiError(f"{directory}: cannot be locked ({error.strerror})") from None
        else:
            return
    raise PkiError(f"{directory}: another process has been writing there for 10 s; try again when it ended")


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str | None = None) -> None:
    """Writes a private key (PKCS #8, PEM) that only its owner can read, encrypted if there is a passphrase.

    Raises:
        PkiError: if it cannot be written; what was there before is then still there.
    """
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption_algorithm=encryption
    )
    write_whole(path, pem, mode=0o600)


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Writes a certificate (PEM) that everybody may read.

    Raises:
        PkiError: if it cannot be written; what was there before is then still there.
    """
    write_certificates(path, (certificate,))


def write_certificates(path: Path, certificates: Iterable[x509.Certificate]) -> None:
    """Writes several certificates (PEM) into one file; as `write_certificate`."""
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    write_whole(path, pem, mode=0o644)


def read_key(path: Path, passphrase: str | None = None) -> ec.EllipticCurvePrivateKey:
    """Returns the P-256 private key in a PEM file.

    Raises:
        KeyPermission: if others than the file's owner can read it, or this process cannot.
        PkiError: if it is not there, is no such key, or the passphrase is missing or wrong.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                problem = f"can be used by others than its owner (mode {mode:04o}); run: chmod 600 {path}"
                raise KeyPermission(str(path), problem)
            pem = file.read(_FILE_BYTES_MAX)
    except PermissionError:
        raise KeyPermission(str(path), "cannot be read by this user") from None
    except OSError as error:
        raise PkiError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError:
        problem = (
            "is not encrypted, but a passphrase was given"
            if passphrase
            else "needs its passphrase: set MESH_PASSPHRASE"
        )
        raise PkiError(f"{path}: {problem}") from None
    except (ValueError, UnsupportedAlgorithm):
        problem = "is damaged, or the passphrase is wrong" if passphrase else "is not a private key in PEM"
        raise PkiError(f"{path}: {problem}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError(f"{path}: is not an ECDSA P-256 key")
    return key


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Returns the certificates in a PEM file, at least one.

    Raises:
        PkiError: if it cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise PkiError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise PkiError(f"{path}: holds no certificate in PEM") from None


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Puts `content` at `path` in one step, on disk before it returns.

    Raises:
        PkiError: if it cannot be written; what was there before is then still there.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        sync_directory(path.parent)
    except OSError as error:
        raise PkiError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def sync_directory(directory: Path) -> None:
    """Makes what was put into, renamed in or taken out of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
