"""What the shell offers the mesh: the protocols that NATS, SQLite, the clock and their twins implement."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.load import LoadView
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.names import HealthStatus
from pmoves_mesh.core.registration import Registration


class LogMessage(Struct, frozen=True, kw_only=True):
    """One event as the stream holds it.

    Attributes:
        position: the stream sequence, from 1.
        time_ms: when the stream took it, unix milliseconds.
    """

    sealed: SealedEvent
    position: int
    time_ms: int


class TailBatch(Struct, frozen=True, kw_only=True):
    """What a tail yields: the next messages in order, and how much is still to come.

    Attributes:
        messages: may be empty, when only `pending` is news.
        pending: messages of the stream not yet yielded; 0 means caught up, None that the log
            cannot be reached now.
    """

    messages: Sequence[LogMessage]
    pending: int | None


class LogBounds(Struct, frozen=True, kw_only=True):
    """Which positions the stream holds now.

    Attributes:
        first: position of the oldest message; `last + 1` when there is none.
        last: position of the newest message ever taken; 0 when there was none.
        stream_id: changes when the stream is deleted and made anew.
    """

    first: int
    last: int
    stream_id: str


class EventLog(Protocol):
    """The stream of events: the mesh's only truth."""

    @property
    def connected(self) -> bool:
        """Whether the log can be reached at this moment."""

    async def publish(self, sealed: SealedEvent, *, ttl_s: int | None = None) -> int:
        """Appends an event, once however often it is called (by `Nats-Msg-Id`), and returns its position.

        Args:
            sealed: the event.
            ttl_s: seconds after which the stream forgets it; at least 1.

        Raises:
            LogUnavailable: if no acknowledgement came in time. The event may still be in the stream.
        """

    def tail(self, after: int) -> AsyncGenerator[TailBatch, None]:
        """Yields every event with a position above `after`, in order, each once, without end.

        It goes on after the server was away, and says so by a batch whose `pending` is None. It
        begins with a batch, empty if there is nothing, as soon as the log answers. A stream that
        begins after `after + 1` is followed from its first message.
        """

    async def bounds(self) -> LogBounds:
        """Returns which positions the stream holds.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """


class BucketEntry(Struct, frozen=True, kw_only=True):
    """A key of a bucket and its latest value.

    Attributes:
        revision: of the key, for a compare-and-set.
    """

    key: str
    value: bytes
    revision: int


class Bucket(Protocol):
    """A key-value bucket. Every method raises `LogUnavailable` if the log cannot be reached."""

    async def get(self, key: str) -> BucketEntry | None:
        """Returns the latest value of a key, or None if it has none."""

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: int | None = None
    ) -> int:
        """Writes a key and returns its new revision.

        Args:
            key: what to write; letters, digits and `-_=./`.
            value: the whole new value.
            expected: the revision the key must have now, 0 for a key that has no value; None to
                write whatever is there.
            ttl_s: seconds after which the key goes; at least 1. None keeps it.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Removes a key, if it is there.

        Args:
            key: what to remove.
            expected: the revision the key must have now; None to remove it whatever it holds.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """

    async def keys(self, pattern: str = ">") -> list[str]:
        """Returns the keys that match a NATS subject pattern."""

    def load(self, pattern: str = ">") -> AsyncIterator[BucketEntry]:
        """Yields the latest value of every key that matches `pattern`, once, then ends."""


class Delivery(Protocol):
    """A message that a work queue handed to this worker alone."""

    @property
    def message(self) -> LogMessage:
        """The event."""

    async def ack(self) -> None:
        """Says that the work is done; without it the message is handed out again."""


class WorkQueue(Protocol):
    """The shared durable consumer: each event goes to one of the agents that ask."""

    async def fetch(self, count_max: int, timeout_s: float) -> Sequence[Delivery]:
        """Returns up to `count_max` events, or none if there are none within `timeout_s`.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """

    async def floor(self) -> int:
        """Returns the position up to which every event was acknowledged.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """


class Marker(Protocol):
    """A lease that ran out, handed to this agent alone."""

    @property
    def node(self) -> str:
        """Whose lease it was."""

    async def ack(self) -> None:
        """Says that it was judged; without it the marker is handed out again."""

    async def working(self) -> None:
        """Says that it is being judged; to be repeated every second."""


class Markers(Protocol):
    """The shared durable consumer of leases that ran out."""

    async def fetch(self, timeout_s: float) -> Sequence[Marker]:
        """Returns the next markers, or none if there are none within `timeout_s`.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """


class Clock(Protocol):
    """Time, so that tests and simulations can make their own."""

    def now_ms(self) -> int:
        """Returns unix time in milliseconds; may jump."""

    def monotonic_s(self) -> float:
        """Returns seconds since some start; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""


class Receipt(Struct, frozen=True, kw_only=True):
    """What became of a registration.

    Attributes:
        instance: as it is registered now.
        position: where in the stream it stands; 0 while it waits in the outbox.
    """

    instance: Instance
    position: int


class Registrar(Protocol):
    """This node's own registrations: the only ones that it may change."""

    async def register(self, wanted: Registration, *, wait: bool = True) -> Receipt:
        """Registers or updates an instance on this node.

        Args:
            wanted: what the caller asks for.
            wait: whether to wait until the event is in the stream and applied here. It returns
                after the event is durable in the outbox if False, or if the log does not answer.

        Raises:
            InvalidFieldError: if a field is out of bounds.
            CapacityError: if this node holds too many instances.
            StoreError: if it cannot be made durable.
        """

    async def deregister(
        self, service: str, *, node: str | None = None, instance_id: str | None = None, wait: bool = True
    ) -> int:
        """Removes this node's instances of a service, or one of them, and returns the last position.

        Raises:
            ServiceNotFound: if there is no such instance anywhere.
            NotOwnerError: if there is, but only on other nodes.
            StoreError: if it cannot be made durable.
        """


class Reporter(Protocol):
    """This node's instances that report by themselves whether they are well."""

    async def report(
        self,
        service: str,
        status: HealthStatus,
        output: str,
        *,
        instance_id: str | None = None,
        wait: bool = True,
    ) -> tuple[InstanceKey, int | None]:
        """Takes in what an instance says of itself, and sets the time of its next report.

        Args:
            service: its service.
            status: what it says.
            output: in its own words; they are kept when the status changes.
            instance_id: which one, if several of this node report.
            wait: as for `Registrar.register`.

        Returns:
            Which instance it was; and the position of the change, 0 while it waits in the outbox, or
            None if nothing changed.

        Raises:
            ServiceNotFound: if there is no such instance anywhere.
            NotOwnerError: if there is, but only on other nodes.
            InvalidFieldError: if none of them reports by itself, or several do and none is named.
            StoreError: if it cannot be made durable.
        """


class Maintainer(Protocol):
    """This node's maintenance: what is hidden from discovery and stays registered.

    Every method takes the reason, or None to end it, and returns the instances that are concerned, and
    the last position as `Reporter.report` does. Every method raises `NotOwnerError` if that is another
    node's affair, `NotFoundError` if it is unknown, `StoreError` if it cannot be made durable.
    """

    @property
    def node_reason(self) -> str | None:
        """Why this whole node is in maintenance; None if it is not."""

    async def maintain(
        self, service: str, reason: str | None, *, instance_id: str | None = None, wait: bool = True
    ) -> tuple[Sequence[InstanceKey], int | None]:
        """Sets or lifts the mark of a service of this node, or of one instance."""

    async def maintain_node(
        self, node: str, reason: str | None, *, wait: bool = True
    ) -> tuple[Sequence[InstanceKey], int | None]:
        """Sets or lifts the mark of this whole node, and of whatever it registers meanwhile."""


class Surveyor(Protocol):
    """Who finds out about nodes what they do not announce; all methods answer within a second."""

    async def loads(self, nodes: Collection[str]) -> Mapping[str, LoadView]:
        """Returns how much of each node is in use; those of which nothing is known are left out."""

    async def looks(self, node: str) -> Mapping[str, str] | None:
        """Returns whom a node tried to reach lately: nothing, or why it could not; None without a lease."""

    async def round_trips_ms(self, nodes: Collection[str]) -> Mapping[str, float]:
        """Returns the milliseconds to each node and back; those that do not answer are left out."""


class Enrolment(Struct, frozen=True, kw_only=True):
    """A host asks to be let into the mesh.

    Attributes:
        token: the public part of its token.
        secret: the secret part.
        csr: PKCS #10, PEM: the key it made, and the node it wants to be.
        remote: the address it asks from.
    """

    token: str
    secret: str
    csr: str
    remote: str


class Renewal(Struct, frozen=True, kw_only=True):
    """Somebody asks for a new certificate in the place of one that ends, or has ended.

    Attributes:
        certificate: PEM: the one to be replaced.
        csr: PKCS #10, PEM, signed with the same key, which proves that it is still theirs.
        remote: the address it asks from.
    """

    certificate: str
    csr: str
    remote: str


class ServiceRequest(Struct, frozen=True, kw_only=True):
    """A service asks for an identity of its own.

    Attributes:
        name: the service's.
        csr: PKCS #10, PEM.
        requester: SPIFFE ID of the node or operator that vouches for it; empty for this very node.
        remote: the address it asks from.
    """

    name: str
    csr: str
    requester: str = ""
    remote: str


class IssuedIdentity(Struct, frozen=True, kw_only=True):
    """What the CA gives.

    Attributes:
        certificate: PEM.
        roots: the mesh's CA certificates, PEM, the issuing one first.
        settings: what a new host writes into its `env.shared`; empty for a renewal.
    """

    certificate: str
    roots: tuple[str, ...]
    settings: dict[str, str] = {}


class Enroller(Protocol):
    """Whoever gives certificates: the CA where its key is at hand, else the way to it.

    Every method raises `EnrolmentRefusedError` if the answer is no, `RateLimitedError` if it is
    not now, and another `PkiError` or `LogError` if the CA cannot be used or reached.
    """

    async def enrol(self, wanted: Enrolment) -> IssuedIdentity:
        """Lets a host in, once per token."""

    async def renew(self, wanted: Renewal) -> IssuedIdentity:
        """Gives a new certificate to whoever holds the key of one that was not revoked."""

    async def certify(self, wanted: ServiceRequest) -> IssuedIdentity:
        """Gives a service on a node an identity of its own."""
