"""What this agent says of the trust in the mesh: the roots, the certificates in use, and what was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.core.event import RetiredRoot
from pmoves_mesh.core.query import iso
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE, CertificateFacts, TrustReport

_REJECTIONS_SHOWN: Final = 10


async def trust(request: web.Request) -> Answer:
    """Answers `GET /api/trust`."""
    facade = request.app[FACADE]
    found = report(facade.replica, facade.node, facade.clock.now_ms(), enrols=facade.enrols)
    if facade.tokens_pending is not None:
        pending = await asyncio.to_thread(facade.tokens_pending)
        found = msgspec.structs.replace(found, tokens_pending=pending)
    return Answer(parts=[encode(found)])


def report(replica: Replica, node: str, now_ms: int, *, enrols: bool) -> TrustReport:
    """Returns what a replica knows of the trust in its mesh.

    Args:
        replica: who is asked.
        node: this node.
        now_ms: unix milliseconds.
        enrols: whether this node gives certificates.
    """
    verifier = replica.verifier
    return TrustReport(
        mesh=verifier.trust.mesh,
        node=node,
        enrols=enrols,
        roots=[root.public_bytes(Encoding.PEM).decode() for root in verifier.trust.roots],
        ca=verifier.trust.root_fingerprints,
        retired=[
            RetiredRoot(certificate=pem, position=position)
            for pem, position in replica.registry.roots.retired
        ],
        certificates=list(_certificates(replica, now_ms)),
        revoked=sorted(replica.registry.revoked),
        rejected=dict(verifier.rejected),
        rejections=tuple(verifier.rejections)[-_REJECTIONS_SHOWN:],
    )


def _certificates(replica: Replica, now_ms: int) -> Iterator[CertificateFacts]:
    """Yields the certificate with which each node announced itself last, by the node's name."""
    registry = replica.registry
    for name in sorted(registry.nodes):
        signer = replica.verifier.trust.signer(registry.nodes[name].fingerprint)
        if signer is not None:
            yield CertificateFacts(
                identity=signer.id,
                kind=signer.kind,
                name=signer.name,
                fingerprint=signer.fingerprint,
                root=signer.root,
                not_after=iso(signer.not_after_ms),
                seconds_left=(signer.not_after_ms - now_ms) // 1000,
                revoked=signer.fingerprint in registry.revoked,
            )
