"""What an agent says of itself in `/api/status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pmoves_mesh import __version__
from pmoves_mesh.agent.link import Link
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.log.connection import redact
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http.facade import RegistryFacts

_REJECTIONS_SHOWN: Final = 10


def _by_outcome(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (_, outcome), count in counts.items():
        found[outcome] += count
    return dict(found)


class Facts:
    """Gathers the facts when they are asked for.

    Attributes:
        reached_from: gives what other nodes found when they tried to reach this one.
    """

    def __init__(
        self,
        config: Config,
        link: Link,
        replica: Replica,
        outbox: Outbox,
        further: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Takes where the facts are; `further` returns more warnings."""
        self._config = config
        self._link = link
        self._replica = replica
        self._outbox = outbox
        self._further = further
        self.reached_from: Callable[[], Mapping[str, str]] = dict

    def describe(self) -> RegistryFacts:
        """Returns the facts as they are now."""
        config, replica = self._config, self._replica
        registry = replica.registry
        return RegistryFacts(
            mesh=config.mesh,
            hostname=config.node,
            mode=config.mode,
            nats_url=",".join(redact(url) for url in config.nats_servers),
            nats_external=",".join(redact(url) for url in config.nats_external),
            services=sum(registry.is_listed(entry) for entry in registry.entries()),
            nodes=len(registry.nodes),
            position=registry.position,
            stream=replica.stream_id,
            stale=not replica.is_current,
            stale_s=replica.stale_s,
            connected=self._link.connection.connected,
            current=replica.is_current,
            outbox=self._outbox.depth,
            events=_by_outcome(replica.outcomes),
            rejected=dict(replica.verifier.rejected),
            rejections=tuple(replica.verifier.rejections)[-_REJECTIONS_SHOWN:],
            unsigned="accept" if config.accept_unsigned else "reject",
            gaps=replica.gaps,
            ca=replica.verifier.trust.root_fingerprints,
            version=__version__,
            warnings=self._warnings(),
            repairs=dict(replica.repairs),
            reached_from=self.reached_from(),
        )

    def line(self) -> str:
        """Returns how the agent is in one line, at little cost, and the same as long as that is the same."""
        nodes = f"nodes: {len(self._replica.registry.nodes)}"
        if self._replica.is_current:
            return f"the mesh is followed, {nodes}"
        problem = self._link.connection.problem or self._link.problem or "catching up"
        return f"answering from memory, {nodes} ({problem})"

    def _warnings(self) -> list[str]:
        warnings = []
        problem = self._link.connection.problem or self._link.problem
        if problem:
            warnings.append(f"cut off from NATS: {problem}")
        elif self._outbox.problem:
            warnings.append(f"{self._outbox.depth} events cannot be sent: {self._outbox.problem}")
        if self._config.accept_unsigned:
            warnings.append("PMOVES_UNSIGNED=accept: anyone who reaches NATS can announce anything")
        if not self._config.embedded:
            warnings.append(
                "the NATS server is not ours: whether it writes before it acknowledges "
                "(jetstream sync_interval: always) cannot be seen from here"
            )
        if self._config.insecure_http and not is_loopback(self._config.http_host):
            warnings.append("PMOVES_INSECURE_HTTP=1: tokens and answers cross the network as plain text")
        if self._link.identity.fingerprint in self._replica.registry.revoked:
            warnings.append("this node's certificate was revoked: the mesh believes nothing that it says")
        if self._link.incident:
            warnings.append(f"the stream was not what it had been, {self._link.incident}")
        return [*warnings, *self._further()]
