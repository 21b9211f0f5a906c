"""The feed: threads that ask this host's agent, and hand on what it tells as news for the board.

Instances and events come by streams, nodes by answers that wait for a change, so that none is asked
for again and again; only how the agent is, and how busy the nodes in sight are, is.
"""

from __future__ import annotations

import http.client
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Self
from urllib.parse import quote

import click

from pmoves_mesh.cli.client import AgentClient, NotAnswering, Refused
from pmoves_mesh.cli.event_stream import StreamEvent, connected, retry_s
from pmoves_mesh.cli.top.board import (
    EventsTold,
    LoadsTold,
    News,
    NodesTold,
    PulseTold,
    Record,
    ServicesTold,
    ServiceTold,
    Source,
    SourceTold,
)
from pmoves_mesh.config import Config
from pmoves_mesh.errors import MeshError

_QUEUE_MAX: Final = 1000
_HANDING_S: Final = 0.5
_NODES_WAIT_S: Final = 20
_ANSWER_S: Final = 10.0
_IMPATIENCE_S: Final = 2.0
_PULSE_S: Final = 1.0
_LOADS_S: Final = 3.0
_EVENTS_AT_FIRST: Final = 200
_FAILURES: Final = (OSError, http.client.HTTPException, click.ClickException, MeshError, ValueError, KeyError)


class Feed:
    """Use it as a context manager: its threads ask for as long as the context lasts.

    Args:
        config: this host's settings, which say where its agent is.
        wake: called whenever there is news, by one of the threads.
    """

    def __init__(self, config: Config, wake: Callable[[], None]) -> None:
        self._client = AgentClient(config, _ANSWER_S)
        self._impatient = AgentClient(config, _IMPATIENCE_S)
        self._patient = AgentClient(config, _NODES_WAIT_S + _ANSWER_S)
        self._wake = wake
        self._news: Final[queue.Queue[News]] = queue.Queue(_QUEUE_MAX)
        self._over = threading.Event()
        self._begun: Final[set[Source]] = set()
        self._position = ""
        self._busy_nodes: Sequence[str] = ()

    def news(self) -> Iterator[News]:
        """Yields what was told since the last time."""
        with suppress(queue.Empty):
            for _ in range(_QUEUE_MAX):
                yield self._news.get_nowait()

    def tell_events(self) -> None:
        """Has the events of the stream told from now on; they are not, until somebody looks at them."""
        self._begin("events", self._events)

    def tell_loads(self, nodes: Sequence[str]) -> None:
        """Has told how busy some nodes are, those that somebody looks at now."""
        self._busy_nodes = nodes
        if nodes:
            self._begin("loads", self._loads)

    def __enter__(self) -> Self:
        self._begin("pulse", self._pulse)
        self._begin("services", self._services)
        self._begin("nodes", self._nodes)
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()

    def _begin(self, source: Source, ask: Callable[[], None]) -> None:
        if source in self._begun:
            return
        self._begun.add(source)
        # They wait for an agent that may not answer; nothing is lost with them when the program ends.
        threading.Thread(target=self._again_and_again, args=(source, ask), daemon=True).start()

    def _again_and_again(self, source: Source, ask: Callable[[], None]) -> None:
        failures = 0
        while not self._over.is_set():
            try:
                ask()
                failures, problem = 0, ""
            except _FAILURES as error:
                failures += 1
                problem = error.format_message() if isinstance(error, click.ClickException) else str(error)
            self._hand_on(SourceTold(source, problem))
            self._over.wait(retry_s(failures))

    def _hand_on(self, news: News) -> None:
        while not self._over.is_set():
            with suppress(queue.Full):
                self._news.put(news, timeout=_HANDING_S)
                self._wake()
                return

    # What each thread asks

    def _pulse(self) -> None:
        while not self._over.is_set():
            self._hand_on(self._asked_pulse())
            self._over.wait(_PULSE_S)

    def _loads(self) -> None:
        while not self._over.is_set():
            for name in self._busy_nodes:
                self._hand_on(LoadsTold({name: self._asked_load(name)}))
            self._over.wait(_LOADS_S)

    def _asked_pulse(self) -> PulseTold:
        try:
            fields = self._impatient.get("/readyz").fields
        except NotAnswering:
            return PulseTold(None, is_current=False, stale_s=None)
        except Refused as error:
            position, stale_s = error.fields.get("position", 0), error.fields.get("stale_s")
            return PulseTold(position, is_current=False, stale_s=stale_s)
        return PulseTold(int(fields["position"]), is_current=True, stale_s=0.0)

    def _asked_load(self, name: str) -> Record | None:
        try:
            load: Any = self._impatient.get(f"/api/nodes/{quote(name, safe='')}/load").fields.get("load")
        except click.ClickException:
            return None
        return load if isinstance(load, dict) else None

    def _services(self) -> None:
        for event in self._stream("/api/watch", "services"):
            if event.name == "snapshot":
                self._hand_on(ServicesTold(event.data["services"]))
            elif event.name != "end":
                self._hand_on(ServiceTold(event.data, is_gone=event.name == "removed"))

    def _nodes(self) -> None:
        index = ""
        while not self._over.is_set():
            query = {"index": index, "wait": f"{_NODES_WAIT_S}s"} if index else {}
            answer = self._patient.get("/api/nodes", query)
            self._hand_on(NodesTold(answer.records("nodes")))
            self._works("nodes")
            index = answer.index
            if not index:
                return

    def _events(self) -> None:
        if not self._position:
            query = {"order": "desc", "limit": str(_EVENTS_AT_FIRST)}
            found = self._client.get("/api/events", query).records("events")
            self._hand_on(EventsTold(found[::-1]))
            self._position = str(found[0]["position"]) if found else ""
        for event in self._stream("/api/events", "events", after=self._position):
            if event.name == "event":
                self._position = event.position
                self._hand_on(EventsTold([event.data]))

    def _stream(self, path: str, source: Source, after: str = "") -> Iterator[StreamEvent]:
        return connected(self._client, path, {}, after=after, met=lambda: self._works(source))

    def _works(self, source: Source) -> None:
        self._hand_on(SourceTold(source, ""))
