"""How the registering of containers goes: counters, gauges, and one line for each complaint."""

from __future__ import annotations

from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from pmoves_mesh.agent.containers.engine import EngineAwayError
from pmoves_mesh.agent.containers.inspected import Container

_log: Final = structlog.get_logger(__name__)

_PREFIX: Final = "pmoves_mesh"
_SHOWN_MAX: Final = 5
_REMEMBERED_MAX: Final = 1024

Reason = Literal["label", "taken", "refused", "unknown_label"]
"""Why a container is not registered as it asks: a label cannot be used, another instance has its name, the
registry refuses it; or it is registered, but has a label of ours that means nothing."""


class Tally:
    """Counts, and says each thing once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Makes the metrics.

        Args:
            registry: what is scraped; see `Metrics.registry`.
        """
        self._complaints: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._met = False
        self._away: EngineAwayError | None = EngineAwayError("not asked yet", absent=True)
        self._refused = Counter(
            f"{_PREFIX}_containers_refused",
            "Labelled containers that could not be registered as they ask, by reason.",
            ("reason",),
            registry=registry,
        )
        for reason in ("label", "taken", "refused", "unknown_label"):
            self._refused.labels(reason)
        self._registered = Gauge(
            f"{_PREFIX}_containers_registered", "Instances that are containers.", registry=registry
        )
        self._engine = Gauge(
            f"{_PREFIX}_container_engine_up", "1 while a container engine is followed.", registry=registry
        )

    @property
    def followed(self) -> bool:
        """Whether an engine is followed, as far as was noted."""
        return self._away is None

    def complain(self, container: Container, reason: Reason, problem: str) -> None:
        """Says and counts what is wrong with a container, once however often it starts again."""
        self._complaints[container.id] = f"{container.plain_name}: {problem}"
        if self._was_said(container.id, problem):
            return
        self._refused.labels(reason).inc()
        if reason == "unknown_label":
            _log.warning("a label means nothing", container=container.plain_name, detail=problem)
        else:
            _log.warning("container not registered", container=container.plain_name, detail=problem)

    def unread(self, container: str, problem: str) -> None:
        """Says once that an engine tells nothing of use about a labelled container, by its id."""
        self._complaints[container] = f"{container[:12]}: {problem}"
        if not self._was_said(container, problem):
            _log.warning("container not read", container=container[:12], detail=problem)

    def _was_said(self, container: str, problem: str) -> bool:
        """Returns whether this is what was said last of a container; from now on it is."""
        same = self._said.pop(container, None) == problem
        self._said[container] = problem
        if len(self._said) > _REMEMBERED_MAX:
            del self._said[next(iter(self._said))]
        return same

    def content(self, container: str) -> None:
        """Takes note that nothing is wrong with a container, or that it is gone."""
        self._complaints.pop(container, None)

    def forget_all_but(self, containers: frozenset[str]) -> None:
        """Forgets what was said of containers that are gone."""
        for gone in self._complaints.keys() - containers:
            del self._complaints[gone]

    def registered(self, count: int) -> None:
        """Takes note of how many instances are containers."""
        self._registered.set(count)

    def engine_here(self, labelled: int) -> None:
        """Takes note that an engine is followed, and of how many of its containers are labelled."""
        self._engine.set(1)
        self._met = True
        if self._away is not None:
            self._away = None
            _log.info("containers are followed", labelled=labelled)

    def engine_away(self, problem: EngineAwayError) -> None:
        """Takes note that none is, and says why if that is news; that there never was one is no fault."""
        self._engine.set(0)
        if str(problem) == str(self._away):
            return
        self._away = problem
        say = _log.info if problem.absent and not self._met else _log.warning
        say("containers are not followed", detail=str(problem))

    def warnings(self) -> list[str]:
        """Returns what an operator should know, the first few of it."""
        away = self._away
        excused = away is None or (away.absent and not self._met)
        engine = [] if excused else [f"containers are not followed: {away}"]
        return engine + [f"a container: {text}" for text in [*self._complaints.values()][:_SHOWN_MAX]]
