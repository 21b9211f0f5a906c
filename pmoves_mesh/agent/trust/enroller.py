"""Giving certificates: by this host's own CA, or by asking the host that keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust import ca_client
from pmoves_mesh.agent.trust.ca_client import Holder
from pmoves_mesh.agent.trust.issuing import Given, Issuing
from pmoves_mesh.agent.trust.refusals import Note, Refusals
from pmoves_mesh.core.event import IdentityIssued
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import (
    CertificateRequestRejected,
    EnrolmentRefusedError,
    MeshError,
    PkiError,
)
from pmoves_mesh.pki.keystore import read_roots
from pmoves_mesh.pki.requests import RequestedIdentity, read_request
from pmoves_mesh.ports import Clock, Enrolment, IssuedIdentity, Renewal, ServiceRequest
from pmoves_mesh.store.ledger import IssuedCertificate

DEADLINE_S: Final = 30.0

_log: Final = structlog.get_logger(__name__)


class LocalEnroller:
    """The CA of this host, for others; implements `ports.Enroller`.

    What is given is recorded, noted and shown to the mesh before it is answered. Once begun that is
    done whole, even if whoever asked has gone.
    """

    def __init__(
        self,
        issuing: Issuing,
        clock: Clock,
        *,
        issued: Callable[[IssuedCertificate], Awaitable[None]],
        note: Note,
        settings: Callable[[str], dict[str, str]],
    ) -> None:
        """Takes what it needs.

        Args:
            issuing: the CA.
            clock: the time.
            issued: lets the mesh know a new certificate.
            note: states an audit event.
            settings: returns what a new node writes into its `env.shared`.
        """
        self._issuing = issuing
        self._clock = clock
        self._issued = issued
        self._note = note
        self._settings = settings
        self._refusals = Refusals(note, clock)
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[IssuedIdentity]] = set()

    async def run(self) -> None:
        """Notes for ever what was refused meanwhile; without it, that waits for the next refusal."""
        await self._refusals.run()

    async def enrol(self, wanted: Enrolment) -> IssuedIdentity:
        """Lets a host in, once per token; raises as `Enroller` says."""
        ask = partial(self._issuing.enrol, wanted)
        return await self._whole(self._give(ask, wanted.csr, wanted.remote, wanted.token))

    async def renew(self, wanted: Renewal) -> IssuedIdentity:
        """Gives a new certificate in the place of an old one; raises as `Enroller` says."""
        return await self._whole(
            self._give(partial(self._issuing.renew, wanted), wanted.csr, wanted.remote, None)
        )

    async def certify(self, wanted: ServiceRequest) -> IssuedIdentity:
        """Gives a service an identity; raises as `Enroller` says."""
        return await self._whole(
            self._give(partial(self._issuing.certify, wanted), wanted.csr, wanted.remote, None)
        )

    async def _give(
        self, ask: Callable[[int], Given], csr: str, remote: str, token: str | None
    ) -> IssuedIdentity:
        """Gives what is asked for; `token` is the public part of the token of an enrolment."""
        try:
            async with self._turn:  # who is there already is looked up, then written: one at a time
                given = await asyncio.to_thread(ask, self._clock.now_ms())
        except EnrolmentRefusedError as error:
            await self._refusals.add(error.reason, _name_in(csr, self._issuing.mesh), token or "", remote)
            raise
        certificate = given.certificate
        if given.fresh:
            await self._note_issued(certificate, token or "", remote)
        await self._issued(certificate)
        settings = {} if token is None else self._settings(certificate.name)
        return IssuedIdentity(
            certificate=_pem(x509.load_der_x509_certificate(certificate.der)),
            roots=tuple(map(_pem, given.roots)),
            settings=settings,
        )

    async def _note_issued(self, certificate: IssuedCertificate, token: str, remote: str) -> None:
        identity = spiffe_id(self._issuing.mesh, certificate.kind, certificate.name)
        try:
            await self._note(
                IdentityIssued,
                identity=identity,
                fingerprint=certificate.fingerprint,
                not_after=iso(certificate.not_after_ms),
                token=token,
                remote=remote,
            )
        except MeshError as error:
            _log.warning("an issued identity could not be noted", identity=identity, detail=str(error))

    async def _whole(self, giving: Coroutine[Any, Any, IssuedIdentity]) -> IssuedIdentity:
        """Waits for what is under way, which goes on if the caller is cancelled or the time is over."""
        task = asyncio.ensure_future(giving)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.shield(task)
        except TimeoutError:
            raise PkiError(f"the CA did not finish within {DEADLINE_S:.0f} s; try again") from None

    def _ended(self, task: asyncio.Task[IssuedIdentity]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits is told; if nobody does, nobody need be


class RemoteEnroller:
    """The way to the CA on another host, for the programs of this one; implements `ports.Enroller`."""

    def __init__(
        self, node_id: str, tls_dir: Path, urls: Callable[[], Sequence[str]], holder: Holder
    ) -> None:
        """Takes what it needs.

        Args:
            node_id: this node's SPIFFE ID.
            tls_dir: where the CA certificates are that this host trusts.
            urls: returns where the CA answers, `https://host:port` each.
            holder: the files of this node's identity.
        """
        self._node_id = node_id
        self._mesh = node_id.removeprefix("spiffe://").partition("/")[0]
        self._tls_dir = tls_dir
        self._urls = urls
        self._holder = holder

    async def enrol(self, wanted: Enrolment) -> IssuedIdentity:
        """Refuses: a token names the host that keeps the CA, and that is not this one."""
        del wanted
        where = f": ask {', '.join(urls)}" if (urls := self._urls()) else ""
        raise EnrolmentRefusedError("not_here", f"this node does not keep the mesh's CA{where}")

    async def renew(self, wanted: Renewal) -> IssuedIdentity:
        """Passes it on to the CA; raises as `Enroller` says."""
        roots = await asyncio.to_thread(read_roots, self._tls_dir)
        return await ca_client.renew(self._urls(), roots, self._mesh, wanted.csr, wanted.certificate)

    async def certify(self, wanted: ServiceRequest) -> IssuedIdentity:
        """Vouches for a service of this host; raises as `Enroller` says."""
        if wanted.requester not in {"", self._node_id}:
            raise EnrolmentRefusedError("not_here", "this node does not keep the mesh's CA")
        requested = _requested(wanted.csr, self._mesh)
        if (requested.kind, requested.name) != ("service", wanted.name):
            asked = f"{requested.kind} {requested.name}"
            raise EnrolmentRefusedError(
                "name_not_allowed", f"the request is for {asked}, not for service {wanted.name}"
            )
        roots = await asyncio.to_thread(read_roots, self._tls_dir)
        return await ca_client.certify(self._urls(), roots, self._mesh, wanted.csr, self._holder)


def _requested(csr: str, mesh: str) -> RequestedIdentity:
    try:
        return read_request(csr, mesh)
    except CertificateRequestRejected as error:
        raise EnrolmentRefusedError("request_rejected", str(error)) from None


def _name_in(csr: str, mesh: str) -> str:
    """Returns whom a request is for, as far as it can be read."""
    try:
        requested = read_request(csr, mesh)
    except CertificateRequestRejected:
        return ""
    return f"{requested.kind}/{requested.name}"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
