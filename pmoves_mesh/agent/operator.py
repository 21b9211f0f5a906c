"""What an operator decrees: evictions, revocations, roots; signed on the spot, ordered by the stream.

A decree is an event like any other, but nobody's agent states it: a command does, in the name of
`spiffe://<mesh>/operator/<name>`, and every replica heeds it from its position on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from cryptography import x509

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.trusted import keeps_ca
from pmoves_mesh.config import Config
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.event import CertificatesRevoked, Event, InstanceEvicted, RetiredRoot, RootsRotated
from pmoves_mesh.core.names import MESH_API, inbox_prefix
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import PkiError, SequenceConflict
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.pki.identity import Identity
from pmoves_mesh.pki.operator import OPERATOR_CERTIFICATE, OPERATOR_KEY, operator_identity
from pmoves_mesh.ports import Bucket, Clock

Place = dict[str, Any]
"""A decree's place: `mesh node incarnation revision prev timestamp`, where `node` is the operator's name."""

Build = Callable[[Place], Event]

FINGERPRINTS_MAX: Final = 1000
"""As many as one event holds."""

_CONNECT_S: Final = 5.0


def evict(
    service: str, node: str, instance_id: str | None, *, reason: str = "", lifted: bool = False
) -> Build:
    """Returns the decree that takes a service off a node until it is lifted, or that lifts it.

    Args:
        service: its name.
        node: whose it is.
        instance_id: one instance, or None for every one of that service on that node.
        reason: why, for whoever reads the stream.
        lifted: True takes an earlier eviction back; the latest word counts.
    """

    def build(place: Place) -> InstanceEvicted:
        return InstanceEvicted(
            **{**place, "node": node},
            service=service,
            id=instance_id,
            operator=place["node"],
            lifted=lifted,
            reason=reason,
        )

    return build


def revoke(fingerprints: Sequence[str], *, reason: str = "") -> Build:
    """Returns the decree that ends certificates, at most 1000 of them.

    Args:
        fingerprints: SHA-256 of each certificate (DER), in hex.
        reason: why, for whoever reads the stream.
    """
    return lambda place: CertificatesRevoked(
        **place, operator=place["node"], fingerprints=tuple(fingerprints), reason=reason
    )


def rotate_roots(roots: Sequence[str], retired: Sequence[RetiredRoot] = ()) -> Build:
    """Returns the decree that names the CA certificates that hold from its position on.

    Args:
        roots: PEM of each, 1 to 4, the issuing one first.
        retired: every earlier one, with the position from which on it holds no more.
    """
    return lambda place: RootsRotated(
        **place, operator=place["node"], roots=tuple(roots), retired=tuple(retired)
    )


async def decree(
    settings: NatsSettings, identity: SigningIdentity, certificate_der: bytes, build: Build, clock: Clock
) -> int:
    """Signs what `build` makes of its place, publishes it, and returns its position in the stream.

    The certificate is shown to the mesh first, so that whoever reads the event can verify it.

    Args:
        settings: how to reach the mesh's NATS.
        identity: the operator, who signs.
        certificate_der: the operator's certificate.
        build: makes the event.
        clock: the time.

    Raises:
        PkiError: if the certificate is not an operator's.
        LogUnavailable: if the log cannot be reached; the event may still be in the stream.
        LogError: one of its subclasses, if the log refuses it.
    """
    mesh, name = _operator_of(certificate_der)
    now_ms = clock.now_ms()
    event = build(
        {
            "mesh": mesh,
            "node": name,
            "incarnation": now_ms,
            "revision": 1,
            "prev": "",
            "timestamp": iso(now_ms),
        }
    )
    # The stamp alone would let the stream take two decrees of the same millisecond for one.
    message_id = f"{envelope.stamped_id(event)}.{secrets.token_hex(8)}"
    sealed = envelope.seal(event, identity, message_id=message_id)
    async with Connection(settings) as connection:
        await connection.wait_connected(_CONNECT_S)
        await _show(NatsBucket(connection, topology.IDENTITIES), identity.fingerprint, certificate_der)
        return await NatsEventLog(connection).publish(sealed)


def run(config: Config, build: Build, clock: Clock, issuer: str | None = None) -> int:
    """Decrees in the name of this host's operator; blocks until it is in the stream; returns its position.

    Args:
        config: the settings.
        build: makes the event.
        clock: the time.
        issuer: fingerprint of the CA certificate that the operator's has to chain to; None for any.

    Raises:
        PkiError: if this host has neither an operator's identity nor the CA's key.
        LogError: as `decree` does.
    """
    passphrase = config.ca_passphrase.reveal() if config.ca_passphrase else None
    operator = operator_identity(
        config.tls_dir, config.mesh, config.node, clock.now_ms(), passphrase, issuer=issuer
    )
    return asyncio.run(decree(_settings(config, operator), operator, operator.certificate_der, build, clock))


def _settings(config: Config, operator: Identity) -> NatsSettings:
    """Returns how to reach NATS: as the operator, where the NATS server knows its certificate already."""
    kept = config.tls_dir / OPERATOR_CERTIFICATE, config.tls_dir / OPERATOR_KEY
    settings = nats_settings(config)
    if not config.mesh_tls or not kept[0].exists() or keeps_ca(config):
        return settings
    return replace(
        settings,
        tls_cert=kept[0],
        tls_key=kept[1],
        inbox_prefix=inbox_prefix(operator.kind, operator.name),
        api_prefix=MESH_API,
    )


async def _show(identities: Bucket, fingerprint: str, certificate_der: bytes) -> None:
    if await identities.get(fingerprint) is None:
        with suppress(SequenceConflict):  # shown by another at the same moment
            await identities.put(fingerprint, certificate_der, expected=0)


def _operator_of(certificate_der: bytes) -> tuple[str, str]:
    """Returns the mesh and the name of the operator that a certificate is of."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match uris[0].removeprefix("spiffe://").split("/") if uris else []:
        case [mesh, "operator", name]:
            return mesh, name
        case _:
            raise PkiError(f"the certificate is that of {', '.join(uris) or 'nobody'}, not of an operator")
