"""The files of the mesh's trust: the CA and its certificates in one directory, a node's identity in another.

Everything here reads and writes files and blocks the thread for some milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, TypedDict, Unpack

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.core.names import LABEL_LENGTH_MAX
from pmoves_mesh.core.trust import SignerKind, fingerprint
from pmoves_mesh.errors import KeyPermission, PkiError
from pmoves_mesh.pki.authority import Authority, check_authority_of
from pmoves_mesh.pki.files import (
    locked,
    read_certificates,
    read_key,
    write_certificate,
    write_certificates,
    write_key,
)
from pmoves_mesh.pki.identity import Identity, verified_identity
from pmoves_mesh.pki.templates import NODE_LIFETIME_S, CertificateRequest

CA_CERTIFICATE: Final = "ca.crt"
CA_KEY: Final = "ca.key"
CA_KEY_OLD: Final = "ca-old.key"
CA_KEY_NEW: Final = "ca-new.key"
IDENTITY_CERTIFICATE: Final = "node.crt"
IDENTITY_KEY: Final = "node.key"
SERVICES_DIR: Final = "services"
NATS_SERVICE: Final = "nats"
"""The name under which a NATS server of the mesh is known: `spiffe://<mesh>/service/nats`."""

FILE_LIFETIME_S: Final = 397 * 86400
"""How long the server's and client's certificates in the TLS directory hold: nobody renews them by itself."""

JOIN: Final = (
    "join the mesh with: pmoves-mesh join TOKEN (a token comes from pmoves-mesh token create on the host "
    "that keeps the CA)"
)

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""The names and addresses under which every host reaches itself."""

_log = structlog.get_logger(__name__)

_Sign = Callable[[ec.EllipticCurvePrivateKey], x509.Certificate]


class Unlocking(TypedDict, total=False):
    """What opens the CA's key where it is at hand.

    Attributes:
        passphrase: of the key, if it is encrypted.
    """

    passphrase: str | None


class InitChoices(TypedDict, total=False):
    """What whoever runs `init` may choose beside its names.

    Attributes:
        force: makes all six files anew, the CA too: nobody then trusts what the old one signed.
        passphrase: encrypts the CA's key, or opens it if it is there.
    """

    force: bool
    passphrase: str | None


def init(
    tls_dir: Path, mesh: str, node: str, sans: Sequence[str], now_ms: int, **choices: Unpack[InitChoices]
) -> tuple[list[Path], list[Path]]:
    """Makes the mesh's CA, a NATS server's certificate and this host's client certificate, as files.

    What is there is kept, so it may run again; a certificate that is missing beside its key is
    made for that key. Two processes at once make one set.

    Args:
        tls_dir: where `ca`, `server` and `client`, each `.crt` and `.key`, go.
        mesh: the trust domain.
        node: this node; the client certificate is that of the service `client-<node>`.
        sans: further host names and addresses of the NATS server.
        now_ms: unix milliseconds.
        choices: see `InitChoices`.

    Returns:
        The files that were made, and those that were kept.

    Raises:
        PkiError: if a file cannot be read or written, or a key is missing that cannot be made.
    """
    paths = [tls_dir / f"{stem}.{end}" for stem in ("ca", "server", "client") for end in ("crt", "key")]
    force, passphrase = choices.get("force", False), choices.get("passphrase")
    made: list[Path] = []
    with locked(tls_dir):
        if force:
            for name in (CA_KEY_OLD, CA_KEY_NEW):
                (tls_dir / name).unlink(missing_ok=True)
        if force or not all(path.exists() for path in paths if path.name != CA_KEY):
            made += _make_authority(tls_dir, mesh, now_ms, force=force, passphrase=passphrase)
            authority = load_authority(tls_dir, mesh, passphrase)
            server = partial(
                _issue,
                authority,
                now_ms,
                ("service", NATS_SERVICE, FILE_LIFETIME_S),
                (node, *LOOPBACK, *sans),
            )
            client = partial(
                _issue, authority, now_ms, ("service", client_name(node), FILE_LIFETIME_S), (node,)
            )
            made += _complete(tls_dir, "server", server, force=force)
            made += _complete(tls_dir, "client", client, force=force)
        return made, [path for path in paths if path not in made and path.exists()]


def client_name(node: str) -> str:
    """Returns the name of the service that stands for the programs of a host that connect to NATS.

    They are not the node: whoever has `client.key` cannot sign in its name.
    """
    return f"client-{node}"[:LABEL_LENGTH_MAX].rstrip("-")


def ensure_authority(tls_dir: Path, mesh: str, now_ms: int, passphrase: str | None = None) -> bool:
    """Makes the mesh's CA, and only that, where there is none; returns whether it did.

    A directory that holds another host's `ca.crt` alone is left as it is. A passphrase encrypts the key.

    Raises:
        PkiError: if it cannot be made.
    """
    if has_authority(tls_dir):
        return False
    with locked(tls_dir):
        if (tls_dir / CA_CERTIFICATE).exists():
            return False
        _make_authority(tls_dir, mesh, now_ms, passphrase=passphrase)
    return True


def has_authority(tls_dir: Path) -> bool:
    """Returns whether the CA's certificate and its key are both here."""
    return (tls_dir / CA_CERTIFICATE).exists() and (tls_dir / CA_KEY).exists()


def read_roots(tls_dir: Path) -> tuple[x509.Certificate, ...]:
    """Returns the CA certificates that the mesh trusts, at least one, the issuing one first.

    Raises:
        PkiError: if there are none; says how to get them.
    """
    path = tls_dir / CA_CERTIFICATE
    if not path.exists():
        raise PkiError(f"{path} is missing: {JOIN}")
    return read_certificates(path)


def write_roots(tls_dir: Path, roots: Iterable[x509.Certificate]) -> bool:
    """Writes the CA certificates that the mesh trusts, the issuing one first; returns whether they changed.

    Raises:
        PkiError: if they cannot be written; what was there before is then still there.
    """
    path, wanted = tls_dir / CA_CERTIFICATE, tuple(roots)
    if path.exists() and read_certificates(path) == wanted:
        return False
    write_certificates(path, wanted)
    return True


def load_authority(tls_dir: Path, mesh: str, passphrase: str | None = None) -> Authority:
    """Returns the CA whose certificate and key are in `tls_dir`.

    Raises:
        PkiError: if they are not, do not belong together, are another mesh's, or are locked.
        KeyPermission: if others can read the key.
    """
    key = read_key(tls_dir / CA_KEY, passphrase)
    roots = read_roots(tls_dir)
    own = [root for root in roots if root.public_key() == key.public_key()]
    try:
        return Authority(mesh, own[0] if own else roots[0], key)
    except PkiError as error:
        raise PkiError(f"{tls_dir / CA_CERTIFICATE}: {error}") from None


def open_identity(
    identity_dir: Path,
    tls_dir: Path,
    mesh: str,
    node: str,
    addresses: Sequence[str],
    now_ms: int,
    **unlocking: Unpack[Unlocking],
) -> Identity:
    """Returns this node's identity, from its files or, where the CA's key is at hand, newly issued.

    It is renewed from two thirds of its lifetime on, when `addresses` has one that it lacks, and
    when the mesh has a new CA. A renewal keeps the key. Without the CA's key it is used until it ends.

    Args:
        identity_dir: where `node.crt` and `node.key` are kept.
        tls_dir: where the CA is.
        mesh: the trust domain.
        node: this node's name.
        addresses: host names and addresses at which the node is reached, beside its name.
        now_ms: unix milliseconds.
        unlocking: see `Unlocking`.

    Raises:
        PkiError: if there is none and none can be issued here; says what to do.
        KeyPermission: if others can read a key.
    """
    roots = read_roots(tls_dir)
    _check_roots(tls_dir, mesh, roots)
    names = (node, *LOOPBACK, *addresses)
    with locked(identity_dir):
        held, problem = _read_identity(identity_dir, mesh, node, roots)
        usable = held is not None and held.covers(*split_names(names)) and held.root == fingerprint(roots[0])
        if held and now_ms < held.renew_after_ms and (usable or not has_authority(tls_dir)):
            return held
        key = held.key if held else ec.generate_private_key(ec.SECP256R1())
        try:
            authority = load_authority(tls_dir, mesh, unlocking.get("passphrase"))
            certificate = _issue(authority, now_ms, ("node", node, NODE_LIFETIME_S), names, key)
        except PkiError as error:
            if held and now_ms < held.not_after_ms:
                _log.warning("identity not renewed", node=node, reason=str(error))
                return held
            if isinstance(error, KeyPermission):
                raise
            raise PkiError(
                f"node {node} has no usable identity ({problem}), and none can be issued here ({error}): "
                f"{JOIN}"
            ) from None
        write_identity(identity_dir, certificate, key)
        return verified_identity(mesh, node, roots, certificate, key)


def kept_files(tls_dir: Path) -> list[Path]:
    """Returns the certificates of the TLS directory that are somebody's identity, each beside its key."""
    found = [*tls_dir.glob("*.crt"), *(tls_dir / SERVICES_DIR).glob("*.crt")]
    return sorted(path for path in found if path.name != CA_CERTIFICATE and path.with_suffix(".key").exists())


def write_identity(
    identity_dir: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Writes a node's identity to its files.

    Raises:
        PkiError: if it cannot be written.
    """
    write_key(identity_dir / IDENTITY_KEY, key)
    write_certificate(identity_dir / IDENTITY_CERTIFICATE, certificate)


def _read_identity(
    identity_dir: Path, mesh: str, node: str, roots: Sequence[x509.Certificate]
) -> tuple[Identity | None, str]:
    """Returns the identity that is kept here, if the mesh believes it, and else what is wrong with it."""
    try:
        certificate = read_certificates(identity_dir / IDENTITY_CERTIFICATE)[0]
        key = read_key(identity_dir / IDENTITY_KEY)
        return verified_identity(mesh, node, roots, certificate, key), "it has expired"
    except KeyPermission:
        raise
    except PkiError as error:
        return None, str(error)


def _check_roots(tls_dir: Path, mesh: str, roots: Iterable[x509.Certificate]) -> None:
    try:
        for root in roots:
            check_authority_of(mesh, root)
    except PkiError as error:
        raise PkiError(f"{tls_dir / CA_CERTIFICATE}: {error}") from None


def _make_authority(
    tls_dir: Path, mesh: str, now_ms: int, *, force: bool = False, passphrase: str | None = None
) -> list[Path]:
    """Makes what is missing of the CA's two files; returns the files made."""

    def sign(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        return Authority.create(mesh, now_ms, key).certificate

    return _complete(tls_dir, "ca", sign, force=force, passphrase=passphrase)


def _issue(
    authority: Authority,
    now_ms: int,
    owner: tuple[SignerKind, str, int],
    names: Iterable[str],
    key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Returns a certificate for `owner`: its kind, its name, and for how many seconds."""
    kind, name, lifetime_s = owner
    dns_names, addresses = split_names(names)
    request = CertificateRequest(
        kind=kind,
        name=name,
        dns_names=dns_names,
        ip_addresses=addresses,
        public_key=key.public_key(),
        lifetime_s=lifetime_s,
    )
    return authority.issue(request, now_ms)


def _complete(
    directory: Path, stem: str, sign: _Sign, *, force: bool, passphrase: str | None = None
) -> list[Path]:
    """Makes what is missing of a key and its certificate; returns the files made.

    The key comes first: a crash in between leaves a key that the next run certifies.
    """
    certificate_path, key_path = directory / f"{stem}.crt", directory / f"{stem}.key"
    made: list[Path] = []
    if key_path.exists() and not force:
        if certificate_path.exists():
            return made
        key = read_key(key_path, passphrase)
    elif certificate_path.exists() and not force:
        raise PkiError(
            f"{certificate_path} is here without {key_path.name}: put the key back, or move this away"
        )
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(key_path, key, passphrase)
        made.append(key_path)
    write_certificate(certificate_path, sign(key))
    return [certificate_path, *made]


def split_names(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """Returns host names and addresses (without their zones) apart, each once, in their order."""
    dns_names: dict[str, None] = {}
    addresses: dict[IPv4Address | IPv6Address, None] = {}
    for name in names:
        try:
            addresses[ip_address(name.strip("[]").partition("%")[0])] = None
        except ValueError:
            dns_names[name] = None
    return tuple(dns_names), tuple(addresses)
