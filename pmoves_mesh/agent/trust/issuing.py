"""Who gets which certificate: the CA's rules, over its key and its ledger as they are on this host's disk.

Files are read at each use, so that a rotation or a command is taken up at once; everything blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.core.limits import allows, patterns_of
from pmoves_mesh.core.names import server_name_of, spiffe_id
from pmoves_mesh.core.trust import Trust, fingerprint
from pmoves_mesh.errors import (
    CertificateRequestRejected,
    EnrolmentRefusedError,
    PkiError,
    RateLimitedError,
    UntrustedIssuer,
)
from pmoves_mesh.pki import keystore, tokens
from pmoves_mesh.pki.authority import LIFETIME_MAX_S, Authority
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.pki.requests import REQUEST_LENGTH_MAX, RequestedIdentity, key_id, read_request
from pmoves_mesh.pki.templates import BACKDATE_S, NODE_LIFETIME_S, CertificateRequest, trust_domain_id
from pmoves_mesh.ports import Enrolment, Renewal, ServiceRequest
from pmoves_mesh.server.leaf import SERVICE_PREFIX
from pmoves_mesh.store.ledger import LEDGER_FILE, IssuedCertificate, Ledger, StoredToken

GRACE_MS: Final = 90 * 86_400_000
"""How long after its end a certificate can still be renewed by whoever has its key."""

PACE_MAX: Final = 20
PACE_MS: Final = 60_000
"""At most so many certificates in so many milliseconds for one identity, or vouched for by one."""

_LOCAL_SERVICES: Final = (keystore.NATS_SERVICE, "client-*")
"""Names that stand for the parts of the mesh itself: only the host that keeps the CA gives them."""

_NO_HASH: Final = tokens.hashed("")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A certificate, and the CA certificates that the mesh trusts, the issuing one first.

    Attributes:
        fresh: False if it was given before, to the same key, and the answer went astray.
    """

    certificate: IssuedCertificate
    roots: tuple[x509.Certificate, ...]
    fresh: bool = True


class Issuing:
    """The CA of this host at work. Every method may raise `PkiError` and `StoreError`."""

    def __init__(self, tls_dir: Path, mesh: str, node: str, passphrase: str | None = None) -> None:
        """Takes where the CA is, this node's own name, and what opens the CA's key."""
        self.mesh: Final = mesh
        self.node: Final = node
        self.tls_dir: Final = tls_dir
        self.ledger: Final = Ledger(tls_dir / LEDGER_FILE)
        self._passphrase: Final = passphrase

    def issue(self, request: CertificateRequest, now_ms: int, requester: str = "") -> IssuedCertificate:
        """Signs and records a certificate, whoever asked; the caller has checked that.

        Raises:
            EnrolmentRefusedError: `certificate_revoked`, if the key was revoked before.
            CertificateRequestRejected: if the request is out of bounds.
        """
        certificate = self._sign(self._authority(), request, now_ms, requester)
        recorded = self.ledger.record(certificate)
        if recorded.revoked_ms is not None:
            _refuse("certificate_revoked", f"the key of {request.kind} {request.name} was revoked")
        return recorded

    def record(self, certificate: x509.Certificate, now_ms: int) -> IssuedCertificate:
        """Records a certificate that this CA gave in some other way, such as to this node itself.

        Raises:
            UntrustedIssuer: if it is none of this CA's.
        """
        signer = Trust(self.mesh, keystore.read_roots(self.tls_dir)).admit(
            certificate.public_bytes(Encoding.DER)
        )
        owner, issued_ms = (signer.kind, signer.name), min(now_ms, signer.not_before_ms + BACKDATE_S * 1000)
        return self.ledger.record(entry(certificate, owner, signer.root, issued_ms))

    def record_files(self, now_ms: int) -> list[IssuedCertificate]:
        """Records the certificates in the TLS directory, as `certs init` makes them, and returns them.

        What is not of this CA, or cannot be read, is left out.
        """
        found = []
        for path in keystore.kept_files(self.tls_dir):
            with suppress(PkiError, UntrustedIssuer):
                found.append(self.record(read_certificates(path)[0], now_ms))
        return found

    def enrol(self, wanted: Enrolment, now_ms: int) -> Given:
        """Lets a host in, once per token.

        The same key is given the same certificate again while the token lasts: an answer can go
        astray, and whoever has a certificate but not its key has nothing.

        Raises:
            EnrolmentRefusedError: says which rule is broken.
        """
        token = self._token(wanted)
        requested = self._requested(wanted.csr)
        if now_ms >= token.expires_ms and token.used_ms is None:
            _refuse("token_expired", "this token has expired: create another one")
        if token.used_ms is not None:
            return self._again(token, requested, now_ms)
        if requested.kind != "node":
            _refuse("name_not_allowed", f"a token lets a node in, not {requested.kind} {requested.name}")
        if token.node not in {None, requested.name}:
            _refuse("name_not_allowed", f"this token is for node {token.node}, not for {requested.name}")
        self._check_key(requested)
        self._check_name(requested, now_ms, named=token.node is not None)
        lifetime_s = token.lifetime_s or NODE_LIFETIME_S
        request = _request(requested, allow=token.allow, lifetime_s=lifetime_s)
        certificate = self._sign(self._authority(), request, now_ms)
        if not self.ledger.use_token(token.id, certificate, now_ms):
            _refuse("token_used", "this token was used, or withdrawn, at this very moment")
        return self._given(certificate)

    def renew(self, wanted: Renewal, now_ms: int) -> Given:
        """Gives a new certificate in the place of one, to whoever has its key; it may have ended.

        Lifetime and limits are those of the one replaced; the names are those asked for.

        Raises:
            EnrolmentRefusedError: says which rule is broken.
            RateLimitedError: if it asks too often.
        """
        held = self.ledger.certificate(_fingerprint_of(wanted.certificate))
        if held is None:
            _refuse("certificate_unknown", "this CA did not issue that certificate: join the mesh anew")
        requested = self._requested(wanted.csr)
        if held.revoked_ms is not None:
            _refuse("certificate_revoked", f"the certificate of {held.kind} {held.name} was revoked")
        if requested.key_id != held.key_id:
            _refuse("key_mismatch", "the request is not signed with the key of the certificate")
        if (requested.kind, requested.name) != (held.kind, held.name):
            asked = f"{requested.kind} {requested.name}"
            _refuse(
                "name_not_allowed", f"a certificate of {held.kind} {held.name} cannot become that of {asked}"
            )
        if now_ms >= held.not_after_ms + GRACE_MS:
            _refuse("grace_over", f"the certificate of {held.kind} {held.name} ended more than 90 days ago")
        siblings = self.ledger.certificates(kind=held.kind, name=held.name)
        self._check_not_replaced(held, siblings, now_ms)
        _check_pace(siblings, f"certificates for {held.kind} {held.name}", now_ms)
        lifetime_s = min(LIFETIME_MAX_S, -(-(held.not_after_ms - held.issued_ms) // 1000))
        request = _request(requested, allow=held.allow, lifetime_s=max(1, lifetime_s))
        return self._given(self.issue(request, now_ms, held.requester))

    def certify(self, wanted: ServiceRequest, now_ms: int) -> Given:
        """Gives a service an identity, if the node or operator that vouches for it may name it.

        Raises:
            EnrolmentRefusedError: says which rule is broken.
            RateLimitedError: if it asks too often.
        """
        requested = self._requested(wanted.csr)
        if (requested.kind, requested.name) != ("service", wanted.name):
            asked = f"{requested.kind} {requested.name}"
            _refuse("name_not_allowed", f"the request is for {asked}, not for service {wanted.name}")
        requester = "" if wanted.requester == spiffe_id(self.mesh, "node", self.node) else wanted.requester
        if requester:
            self._check_entitled(requester, requested, now_ms)
        self._check_key(requested)
        vouched = self.ledger.certificates(kind="service", requester=requester)
        _check_pace(vouched, "certificates for services", now_ms)
        request = _request(requested, allow=(), lifetime_s=NODE_LIFETIME_S)
        return self._given(self.issue(request, now_ms, requester))

    def _token(self, wanted: Enrolment) -> StoredToken:
        """Returns the token, once the secret is known to be its own."""
        token = self.ledger.token(wanted.token)
        genuine = tokens.matches(wanted.secret, token.hash if token else _NO_HASH)
        if token is None:
            _refuse("token_unknown", "this CA knows no such token: it was withdrawn, or is another mesh's")
        if not genuine:
            _refuse("token_forged", "the token's secret is wrong")
        return token

    def _requested(self, csr: str) -> RequestedIdentity:
        try:
            requested = read_request(csr, self.mesh)
        except CertificateRequestRejected as error:
            raise EnrolmentRefusedError("request_rejected", str(error)) from None
        servers_name = server_name_of(self.mesh)
        if requested.kind == "service" and servers_name in requested.dns_names:
            _refuse("name_not_allowed", f"{servers_name} is the name of NATS servers: no service can have it")
        return requested

    def _again(self, token: StoredToken, requested: RequestedIdentity, now_ms: int) -> Given:
        given = self.ledger.certificate(token.used_by)
        same = given is not None and given.key_id == requested.key_id and given.name == requested.name
        if given is None or not same or now_ms >= token.expires_ms:
            _refuse("token_used", "this token was used already: create another one")
        if given.revoked_ms is not None:
            _refuse("certificate_revoked", f"the certificate of node {given.name} was revoked")
        return self._given(given, fresh=False)

    def _check_key(self, requested: RequestedIdentity) -> None:
        if any(one.revoked_ms is not None for one in self.ledger.certificates(key_id=requested.key_id)):
            _refuse("certificate_revoked", f"the key of {requested.kind} {requested.name} was revoked")

    def _check_name(self, requested: RequestedIdentity, now_ms: int, *, named: bool) -> None:
        if requested.name == self.node:
            _refuse("name_taken", f"{requested.name} is the node that keeps the CA: choose another name")
        others = self.ledger.certificates(kind="node", name=requested.name)
        if not named and any(one.holds(now_ms) and one.key_id != requested.key_id for one in others):
            _refuse(
                "name_taken",
                f"there is a node {requested.name} already: choose another name, or put this host in its "
                f"place with a token for it (pmoves-mesh token create --node {requested.name})",
            )

    def _check_not_replaced(
        self, held: IssuedCertificate, siblings: Iterable[IssuedCertificate], now_ms: int
    ) -> None:
        """Checks that no other host took this one's place while it slept; services share their names."""
        if held.kind == "service":
            return
        issued_ms = max(one.issued_ms for one in siblings if one.key_id == held.key_id)
        for one in siblings:
            if one.key_id != held.key_id and one.holds(now_ms) and one.issued_ms > issued_ms:
                _refuse("name_taken", f"another host has become {held.kind} {held.name} since")

    def _check_entitled(self, requester: str, requested: RequestedIdentity, now_ms: int) -> None:
        service = requested.name
        kind, _, name = requester.removeprefix(f"{trust_domain_id(self.mesh)}/").partition("/")
        if kind not in {"node", "operator"}:
            _refuse("not_allowed", f"{requester} cannot vouch for a service")
        known = self.ledger.certificates(kind=kind, name=name)
        if not known:
            _refuse("certificate_unknown", f"this CA gave {requester} no certificate")
        live = [one for one in known if one.holds(now_ms)]
        if not live:
            _refuse("certificate_revoked", f"{requester} has no certificate that holds")
        if service.startswith(SERVICE_PREFIX):
            _check_leaf(live[0], requested)
            return
        allow = live[0].allow
        if not allows(allow, service):
            _refuse(
                "not_allowed", f"{requester} may not name service {service}: it may name {', '.join(allow)}"
            )
        if allows(_LOCAL_SERVICES, service):
            _refuse("not_allowed", f"service {service} is the mesh's own: no other host can have it")

    def _authority(self) -> Authority:
        return keystore.load_authority(self.tls_dir, self.mesh, self._passphrase)

    def _sign(
        self, authority: Authority, request: CertificateRequest, now_ms: int, requester: str = ""
    ) -> IssuedCertificate:
        certificate = authority.issue(request, now_ms)
        root = fingerprint(authority.certificate)
        return entry(certificate, (request.kind, request.name), root, now_ms, requester)

    def _given(self, certificate: IssuedCertificate, *, fresh: bool = True) -> Given:
        return Given(certificate=certificate, roots=keystore.read_roots(self.tls_dir), fresh=fresh)


def entry(
    certificate: x509.Certificate, owner: tuple[str, str], root: str, issued_ms: int, requester: str = ""
) -> IssuedCertificate:
    """Returns a certificate as the ledger records it.

    Args:
        certificate: an X.509-SVID of the mesh.
        owner: its kind and name.
        root: fingerprint of the CA certificate that it chains to.
        issued_ms: unix milliseconds.
        requester: SPIFFE ID of whoever vouched for it; empty for this host.
    """
    return IssuedCertificate(
        fingerprint=fingerprint(certificate),
        kind=owner[0],
        name=owner[1],
        key_id=key_id(certificate.public_key()),
        not_before_ms=int(certificate.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
        der=certificate.public_bytes(Encoding.DER),
        allow=patterns_of(certificate),
        issued_ms=issued_ms,
        root=root,
        requester=requester,
    )


def _request(requested: RequestedIdentity, *, allow: tuple[str, ...], lifetime_s: int) -> CertificateRequest:
    return CertificateRequest(
        kind=requested.kind,
        name=requested.name,
        public_key=requested.public_key,
        dns_names=requested.dns_names,
        ip_addresses=requested.ip_addresses,
        allow=allow,
        lifetime_s=lifetime_s,
    )


def _check_leaf(holder: IssuedCertificate, requested: RequestedIdentity) -> None:
    """Checks that a leaf node is that of the very node that asks, with its key: revoked with it, then."""
    if (holder.kind, f"{SERVICE_PREFIX}{holder.name}") != ("node", requested.name):
        _refuse("not_allowed", f"service {requested.name} is a node's leaf node: no other can have it")
    if requested.key_id != holder.key_id:
        _refuse("key_mismatch", f"service {requested.name} has to have the key of node {holder.name}")


def _fingerprint_of(pem: str) -> str:
    """Returns the fingerprint of a certificate; of none, one that no certificate has."""
    if len(pem) > REQUEST_LENGTH_MAX:
        return ""
    try:
        der = x509.load_pem_x509_certificate(pem.encode("ascii")).public_bytes(Encoding.DER)
    except ValueError:
        return ""
    return hashlib.sha256(der).hexdigest()


def _check_pace(given: Iterable[IssuedCertificate], what: str, now_ms: int) -> None:
    recent = sorted(one.issued_ms for one in given if one.issued_ms > now_ms - PACE_MS)
    if len(recent) >= PACE_MAX:
        raise RateLimitedError(what, (recent[-PACE_MAX] + PACE_MS - now_ms) / 1000)


def _refuse(reason: str, problem: str) -> NoReturn:
    raise EnrolmentRefusedError(reason, problem)
