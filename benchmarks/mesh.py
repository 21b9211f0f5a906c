"""A mesh to measure: a CA, identities, and histories of as many instances as are asked for."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent, VerifiedEvent
from pmoves_mesh.core.event import InstanceRegistered
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.pki.authority import Authority
from pmoves_mesh.pki.identity import Identity, verified_identity
from pmoves_mesh.pki.templates import NODE_LIFETIME_S, CertificateRequest

MESH = "bench"
NODES = 50


class Mesh:
    """A CA and the identities of its nodes.

    Attributes:
        trust: every identity is admitted.
        now_ms: the time of every event.
    """

    def __init__(self) -> None:
        self.now_ms = SystemClock().now_ms()
        self._authority = Authority.create(MESH, self.now_ms)
        self.trust = Trust(MESH, [self._authority.certificate])
        self.identities = [self._identity(f"node-{index}") for index in range(NODES)]

    def _identity(self, name: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        request = CertificateRequest(
            kind="node", name=name, public_key=key.public_key(), lifetime_s=NODE_LIFETIME_S
        )
        certificate = self._authority.issue(request, self.now_ms)
        identity = verified_identity(MESH, name, [self._authority.certificate], certificate, key)
        self.trust.admit(identity.certificate_der)
        return identity

    def event(self, index: int, revision: int) -> InstanceRegistered:
        """Returns the registration of instance `index`, as its node's revision `revision`."""
        node = f"node-{index % NODES}"
        record = Instance(
            name=f"service-{index // 20}",
            id=f"i{index}",
            node=node,
            host="10.1.2.3",
            port=8000 + index % 1000,
            capabilities=(f"group-{index % 500}", f"kind-{index % 40}", "all"),
            health_url="http://10.1.2.3:8000/healthz",
            health_status="healthy",
            metadata={"version": "1.2.3", "zone": "rack-7"},
        )
        return InstanceRegistered(
            mesh=MESH, node=node, incarnation=1, revision=revision, service=record.name, data=record
        )

    def sealed(self, index: int, revision: int) -> SealedEvent:
        """Returns the same, signed."""
        return envelope.seal(self.event(index, revision), self.identities[index % NODES])

    def unsealed(self, sealed: SealedEvent) -> VerifiedEvent:
        """Returns what a sealed event states."""
        return envelope.unseal(sealed, self.trust, time_ms=self.now_ms, position=1)[0]

    def registry(self, instances: int) -> Registry:
        """Returns a registry of so many instances, each folded in from a signed event."""
        registry = Registry()
        for index in range(instances):
            verified = self.unsealed(self.sealed(index, index + 1))
            apply(registry, verified, position=index + 1, time_ms=self.now_ms)
        return registry
