"""What `doctor` checks by itself: the certificates, keys and other files of this host."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dotenv import dotenv_values

from pmoves_mesh.agent.pidfile import is_stale
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.config import Config
from pmoves_mesh.core.query import iso
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import KeyPermission, PkiError, UntrustedIssuer
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.authority import check_authority_of
from pmoves_mesh.pki.files import read_certificates, read_key
from pmoves_mesh.pki.inventory import CertificateFact, certificate_files, facts_of, key_files, severity
from pmoves_mesh.values import ENV_FILE

_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_MIB: Final = 1 << 20
_FREE_ALARM: Final = 128 * _MIB
_FREE_WARNING: Final = 512 * _MIB
_OTHERS: Final = 0o077
_AGENT_FILE: Final = "agent.secret"
_LEDGER: Final = "authority.db"
_SECRET_NAME: Final = re.compile(r"PASSWORD|PASSPHRASE|TOKEN|SECRET|AUTHKEY")
_CREDENTIALS_IN_URL: Final = re.compile(r"//[^/\s]*@")
_SERVER_CERTIFICATES: Final = ("server.crt", "client.crt")


def _certificates(host: Host) -> Iterator[Complaint]:
    """Each certificate can be read, has begun, and does not end soon."""
    for path in certificate_files(host.config.tls_dir, host.config.data_dir):
        try:
            facts = list(facts_of(path))
        except PkiError as error:
            yield Complaint("alarm", str(error), "put a good copy back, or move it away")
            continue
        for fact in facts:
            who = f"{path}: the certificate of {fact.kind} {fact.name}"
            if fact.not_before_ms > host.now_ms:
                yield Complaint(
                    "alarm", f"{who} begins only at {iso(fact.not_before_ms)}", "set this host's clock"
                )
            urgency = severity(fact, host.now_ms)
            if urgency != "ok":
                yield Complaint(urgency, f"{who} {_ends(fact, host.now_ms)}", _renewal(path, fact, host))


def _ends(fact: CertificateFact, now_ms: int) -> str:
    left_ms = fact.not_after_ms - now_ms
    moment = iso(fact.not_after_ms)
    if left_ms <= 0:
        return f"ended at {moment}"
    left = f"{left_ms / _DAY_MS:.0f} days" if left_ms >= 2 * _DAY_MS else f"{left_ms / _HOUR_MS:.1f} hours"
    return f"ends in {left}, at {moment}"


def _renewal(path: Path, fact: CertificateFact, host: Host) -> str:
    """Returns what makes a new certificate; the agent renews its own, so that one needs a reason."""
    if fact.kind == "ca":
        return "on the host with the CA's key: pmoves-mesh certs rotate"
    if path.name == keystore.IDENTITY_CERTIFICATE:
        if keystore.has_authority(host.config.tls_dir):
            return "restart the agent, which renews it; its log says why it did not"
        return "see that the CA's host can be reached, or join anew: pmoves-mesh join TOKEN"
    if path.name in _SERVER_CERTIFICATES:
        return f"move {path.stem}.crt and {path.stem}.key away, then: pmoves-mesh certs init"
    return f"pmoves-mesh certs renew {fact.name}"


def _identity(host: Host) -> Iterator[Complaint]:
    """There is a CA to believe, and an identity under it that is this node's."""
    config = host.config
    if not (config.tls_dir / keystore.CA_CERTIFICATE).exists():
        yield Complaint(
            "warning",
            f"there is no {keystore.CA_CERTIFICATE} in {config.tls_dir}: this host belongs to no mesh yet",
            "pmoves-mesh up makes a mesh, pmoves-mesh join TOKEN enters one",
        )
        return
    roots = keystore.read_roots(config.tls_dir)
    for root in roots:
        try:
            check_authority_of(config.mesh, root)
        except PkiError as error:
            yield Complaint(
                "alarm", f"{keystore.CA_CERTIFICATE}: {error}", "set PMOVES_MESH_NAME to its mesh"
            )
    trust = Trust(config.mesh, roots)
    for path in certificate_files(config.tls_dir, config.data_dir):
        if path.name != keystore.CA_CERTIFICATE:
            yield from _chains(path, trust, config)
    if not _identity_path(config).exists() and not keystore.has_authority(config.tls_dir):
        yield Complaint(
            "alarm",
            f"node {config.node} has no identity, and none can be made here",
            "pmoves-mesh join TOKEN",
        )


def _chains(path: Path, trust: Trust, config: Config) -> Iterator[Complaint]:
    try:
        certificate = read_certificates(path)[0]
        signer = trust.admit(certificate.public_bytes(Encoding.DER))
    except UntrustedIssuer as error:
        yield Complaint("alarm", f"{path}: {error}", "move it away; a new one is made or asked for")
    except PkiError:
        return  # said of it as a certificate
    else:
        if path == _identity_path(config) and (signer.kind, signer.name) != ("node", config.node):
            yield Complaint(
                "alarm",
                f"{path} is the identity of {signer.id}, and this is node {config.node}",
                "set MESH_HOSTNAME to that node, or give this host its own: pmoves-mesh join TOKEN",
            )


def _keys(host: Host) -> Iterator[Complaint]:
    """Each private key can be opened, and belongs to the certificate beside it."""
    config = host.config
    for path in key_files(config.tls_dir, config.data_dir):
        is_authority = path == config.tls_dir / keystore.CA_KEY
        passphrase = config.ca_passphrase.reveal() if is_authority and config.ca_passphrase else None
        try:
            key = read_key(path, passphrase)
        except KeyPermission as error:
            if not path.stat().st_mode & _OTHERS:
                yield Complaint("alarm", str(error), f"run this as the owner of {path}")
            continue  # what others may do is said of the permissions
        except PkiError as error:
            remedy = "set MESH_PASSPHRASE to it" if is_authority else "put a good copy back, or join anew"
            yield Complaint("alarm", str(error), remedy)
            continue
        beside = _certificates_beside(path)
        if beside and key.public_key() not in [one.public_key() for one in beside]:
            yield Complaint(
                "alarm",
                f"{path} does not belong to {path.with_suffix('.crt').name} beside it",
                "put the key back that does, or move both away and have new ones made",
            )


def _certificates_beside(key_path: Path) -> tuple[x509.Certificate, ...]:
    path = key_path.with_suffix(".crt")
    try:
        return read_certificates(path) if path.exists() else ()
    except PkiError:
        return ()


def _permissions(host: Host) -> Iterator[Complaint]:
    """No other user of this host may read a private key or a secret."""
    config = host.config
    paths = key_files(config.tls_dir, config.data_dir)
    kept = (config.data_dir / _AGENT_FILE, config.tls_dir / _LEDGER)
    paths += [path for path in kept if path.exists()]
    if _holds_secret(Path(ENV_FILE)):
        paths.append(Path(ENV_FILE))
    for path in paths:
        mode = path.stat().st_mode & 0o777
        if mode & _OTHERS:
            yield Complaint(
                "alarm", f"{path} can be used by others than its owner (mode {mode:04o})", f"chmod 600 {path}"
            )


def _holds_secret(path: Path) -> bool:
    if not path.exists():
        return False
    values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    return any(
        value and (_SECRET_NAME.search(name) or _CREDENTIALS_IN_URL.search(value))
        for name, value in values.items()
    )


def _authority_key(host: Host) -> Iterator[Complaint]:
    """The CA's key is on the CA's host alone: whoever joined with a token has no use for it."""
    path = host.config.tls_dir / keystore.CA_KEY
    if path.exists() and host.config.ca_urls:
        yield Complaint(
            "alarm",
            f"{path} is a copy of the CA's key, and this host renews at {', '.join(host.config.ca_urls)}: "
            "whoever takes this host takes the whole mesh",
            f"shred -u {path}",
        )


def _disk(host: Host) -> Iterator[Complaint]:
    """There is room for what the agent and its server write."""
    config = host.config
    directory = next(path for path in (config.data_dir, *config.data_dir.parents) if path.exists())
    free = shutil.disk_usage(directory).free
    wanted = max(config.stream_max_bytes, _FREE_WARNING) if config.embedded else _FREE_WARNING
    if free < wanted:
        yield Complaint(
            "alarm" if free < _FREE_ALARM else "warning",
            f"{free // _MIB} MiB are free at {directory}, and up to {wanted // _MIB} MiB may be needed",
            "free some, or set PMOVES_DATA_DIR to another disk",
        )


def _pid_file(host: Host) -> Iterator[Complaint]:
    """The last agent ended in order."""
    path = host.config.data_dir / "agent.pid"
    if is_stale(path):
        yield Complaint("warning", f"{path} is stale: the last agent did not end in order", "pmoves-mesh up")


def _identity_path(config: Config) -> Path:
    return config.data_dir / "identity" / keystore.IDENTITY_CERTIFICATE


CHECKS: Final = (
    Check("certificates", _certificates, "none ends soon"),
    Check("identity", _identity, "every certificate chains to the mesh's CA"),
    Check("keys", _keys, "each belongs to its certificate"),
    Check("permissions", _permissions, "no other user can read a secret"),
    Check("CA key", _authority_key, "where it belongs"),
    Check("disk", _disk, "there is room"),
    Check("pid file", _pid_file, "in order"),
)
