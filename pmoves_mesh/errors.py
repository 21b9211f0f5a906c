"""The tree of errors: what went wrong, whose fault it was, and whether trying again can help.

Every error is typed and carries what a person needs to act. Views map them to HTTP
problems and the CLI maps them to exit codes; nothing else turns an error into text.
"""

from __future__ import annotations

from typing import ClassVar


class MeshError(Exception):
    """Anything that this package raises on purpose."""

    retryable: ClassVar[bool] = False


class ConfigError(MeshError):
    """A setting has a value that cannot be used; the start stops here."""

    def __init__(self, variable: str, value: str, allowed: str) -> None:
        self.variable = variable
        self.value = value
        self.allowed = allowed
        super().__init__(f"{variable}={value!r} is not usable: {allowed}")


class StartError(MeshError):
    """The host cannot run what the agent needs (a taken port, a missing program, a second agent)."""


class InvalidFieldError(MeshError):
    """A caller's field is missing or out of bounds; nothing was changed."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class NotOwnerError(MeshError):
    """The instance belongs to another node, and only its owner can change it; or the node itself is meant."""

    def __init__(self, service: str, nodes: tuple[str, ...]) -> None:
        self.service = service
        self.nodes = nodes
        what = f"service {service} is registered on" if service else "only its own agent changes node"
        super().__init__(f"{what} {', '.join(nodes)}; ask the agent there")


class WriteRefusedError(MeshError):
    """Somebody who may not write over HTTP tried to; nothing was changed."""

    def __init__(self, problem: str, *, token_helps: bool) -> None:
        self.problem = problem
        self.token_helps = token_helps
        super().__init__(problem)


class ServiceForbiddenError(MeshError):
    """This node's certificate does not allow a service of that name; nothing was changed."""

    def __init__(self, service: str, allow: tuple[str, ...]) -> None:
        super().__init__(
            f"name: this node may not register {service}: its certificate allows {', '.join(allow)}"
        )


class CapacityError(MeshError):
    """A bound of the registry is reached; nothing was changed."""

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        super().__init__(f"at most {limit} {what}")


class ReplicaBehindError(MeshError):
    """A read asked for a position that this replica did not reach in time."""

    retryable = True

    def __init__(self, position: int, wanted: int) -> None:
        self.position = position
        self.wanted = wanted
        super().__init__(f"this replica is at position {position}, not yet at {wanted}")


class RateLimitedError(MeshError):
    """Somebody asks more often than this agent allows; the same call may succeed later."""

    retryable = True

    def __init__(self, what: str, retry_after_s: float) -> None:
        self.what = what
        self.retry_after_s = retry_after_s
        super().__init__(f"too many {what}; try again in {retry_after_s:.0f} s")


class NothingKnownError(MeshError):
    """What was asked for is not known here, and this replica has not seen the mesh yet: it proves nothing."""

    retryable = True

    def __init__(self) -> None:
        super().__init__("not known here, but this replica has not seen the mesh yet")


class ProtocolError(MeshError):
    """An event could not be built or understood."""


class LocalProtocolError(ProtocolError):
    """This program built an event that it must not send: a bug here."""


class RemoteProtocolError(ProtocolError):
    """Somebody sent an event that is not accepted: it is counted under `reason` and skipped."""

    reason: ClassVar[str] = "protocol"


class MalformedEvent(RemoteProtocolError):
    """The payload is not what its subject says it should be."""

    reason = "malformed"

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class UnknownKind(RemoteProtocolError):
    """The subject names a kind of event that this release does not know."""

    reason = "unknown_kind"

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"no event is known on subject {subject[:128]}")


class UnsupportedVersion(RemoteProtocolError):
    """The event was written in a format whose major version is newer than this release."""

    reason = "unsupported_version"

    def __init__(self, version: str, supported: str) -> None:
        self.version = version
        self.supported = supported
        super().__init__(f"format {version[:32]!r} is newer than {supported}")


class EventTooLarge(RemoteProtocolError):
    """The payload is larger than any event may be."""

    reason = "too_large"

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"{size} bytes, at most {limit}")


class Unsigned(RemoteProtocolError):
    """The event carries no signature, and the mesh does not accept such."""

    reason = "unsigned"


class BadSignature(RemoteProtocolError):
    """The signature does not belong to these bytes, this subject and this mesh."""

    reason = "bad_signature"

    def __init__(self, signer: str) -> None:
        self.signer = signer
        super().__init__(f"the signature does not match (signer {signer[:64]})")


class UntrustedIssuer(RemoteProtocolError):
    """The signer's certificate is unknown, or does not chain to this mesh's CA."""

    reason = "untrusted_issuer"

    def __init__(self, signer: str, problem: str) -> None:
        self.signer = signer
        self.problem = problem
        super().__init__(f"signer {signer[:64]}: {problem}")


class CertificateNotHeld(RemoteProtocolError):
    """The signer's certificate had not begun, or had ended, when the stream took the event."""

    reason = "certificate_not_held"

    def __init__(self, signer: str) -> None:
        super().__init__(f"signer {signer}: its certificate did not hold when the stream took the event")


class CertificateRevoked(RemoteProtocolError):
    """The signer's certificate was revoked before the event."""

    reason = "revoked"

    def __init__(self, signer: str, position: int) -> None:
        super().__init__(f"signer {signer}: its certificate was revoked at position {position}")


class ServiceNotAllowed(RemoteProtocolError):
    """The signer's certificate is limited to other service names."""

    reason = "service_not_allowed"

    def __init__(self, signer: str, service: str, allow: tuple[str, ...]) -> None:
        super().__init__(f"{signer} may not state service {service}: it may state {', '.join(allow)}")


class AheadOfTime(RemoteProtocolError):
    """The event's incarnation lies in the future, where nobody could ever outrank it."""

    reason = "ahead_of_time"

    def __init__(self, node: str, incarnation: int) -> None:
        super().__init__(f"node {node}: incarnation {incarnation} is ahead of the stream's time")


class SignerNotEntitled(RemoteProtocolError):
    """The signer is genuine, but may not make this statement (another node's event, another role)."""

    reason = "not_entitled"

    def __init__(self, signer: str, problem: str) -> None:
        self.signer = signer
        self.problem = problem
        super().__init__(f"{signer}: {problem}")


class ForeignMesh(RemoteProtocolError):
    """The event names another mesh than the one it arrived in."""

    reason = "foreign_mesh"

    def __init__(self, mesh: str) -> None:
        self.mesh = mesh
        super().__init__(f"the event belongs to mesh {mesh[:63]!r}")


class LogError(MeshError):
    """The event log (NATS JetStream) did not do what was asked."""


class LogUnavailable(LogError):
    """The log cannot be reached now; the same call may succeed later."""

    retryable = True


class SequenceConflict(LogError):
    """A compare-and-set lost: somebody else wrote the key first. Read again, then decide."""

    retryable = True

    def __init__(self, key: str, expected: int) -> None:
        self.key = key
        self.expected = expected
        super().__init__(f"{key} is no longer at revision {expected}")


class SequenceGap(LogError):
    """Events between what is held and what the stream still has are gone."""

    def __init__(self, held: int, first: int) -> None:
        self.held = held
        self.first = first
        super().__init__(f"held up to {held}, but the stream begins at {first}")


class StreamInTheWay(LogError):
    """Another JetStream stream already claims a subject that the mesh needs."""

    def __init__(self, stream: str, subjects: tuple[str, ...]) -> None:
        self.stream = stream
        self.subjects = subjects
        super().__init__(
            f"stream {stream} already claims {', '.join(subjects)}; run: pmoves-mesh migrate {stream}"
        )


class ForeignStream(LogError):
    """The NATS account already holds another mesh, or the same name under another CA."""


class RightMissing(LogError):
    """The NATS account lacks JetStream, or this user lacks a permission that is needed."""

    def __init__(self, right: str, remedy: str) -> None:
        self.right = right
        self.remedy = remedy
        super().__init__(f"missing right: {right}; {remedy}")


class ServerTooOld(LogError):
    """The nats-server lacks what the mesh relies on."""

    def __init__(self, version: str, needed: str) -> None:
        self.version = version
        self.needed = needed
        super().__init__(f"nats-server {version} is too old: {needed} or later is needed")


class PkiError(MeshError):
    """A key or certificate cannot be made, read or trusted."""


class CertificateRequestRejected(PkiError):
    """The CA does not sign this request."""


class CertificateExpired(PkiError):
    """A certificate is past its end."""

    def __init__(self, path: str, not_after: str) -> None:
        self.path = path
        self.not_after = not_after
        super().__init__(f"{path} expired at {not_after}")


class KeyPermission(PkiError):
    """A private key can be read by others, or cannot be read at all."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class EnrolmentRefusedError(PkiError):
    """A host is not let into the mesh, or an identity is not renewed.

    Attributes:
        reason: one word for counters and audit events, such as `token_used`.
    """

    def __init__(self, reason: str, problem: str) -> None:
        self.reason = reason
        self.problem = problem
        super().__init__(problem)


class PeerNotAllowed(PkiError):
    """The other side of a TLS connection is genuine, but not one of those expected."""

    def __init__(self, peer: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{peer or 'a peer without a SPIFFE ID'} is not one of {', '.join(allowed)}")


class IdentityCloned(MeshError):
    """Another host runs with this node's identity, and was there first: this agent stops."""

    def __init__(self, node: str, host: str) -> None:
        self.node = node
        self.host = host
        super().__init__(
            f"node {node} already runs on {host} with this identity: "
            "give this host a name and an identity of its own (pmoves-mesh join)"
        )


class StoreError(MeshError):
    """The local database cannot be read or written."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class NotFoundError(MeshError):
    """What was asked for is not in the registry."""


class ServiceNotFound(NotFoundError):
    """No instance of this service can be discovered."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__("Service not found")


class NodeNotFound(NotFoundError):
    """No node of this name is known."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__("Node not found")
