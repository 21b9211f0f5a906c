"""Asking agents for the past, and doing what their own keepers do in their own time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import requests
from agents import AgentProcess

from pmoves_mesh.agent.history.desk import HistoryDesk
from pmoves_mesh.agent.history.taking_part import setup_of
from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.config import Config, load
from pmoves_mesh.core.history import KeepUpTo
from pmoves_mesh.log.checkpoints import NatsCheckpoints
from pmoves_mesh.log.connection import Connection

T = TypeVar("T")
DEADLINE_S = 10.0


def config_of(agent: AgentProcess) -> Config:
    return load(agent.environment, agent.directory)


@asynccontextmanager
async def desk_of(agent: AgentProcess) -> AsyncIterator[HistoryDesk]:
    """A desk that speaks as an agent's own does, beside it."""
    desk = HistoryDesk(setup_of(config_of(agent)))
    running = asyncio.create_task(desk.run())
    try:
        yield desk
    finally:
        running.cancel()
        await asyncio.wait((running,))


def keep(agent: AgentProcess, position: int) -> list[int]:
    """Lets an agent's node make the checkpoints that are due, and returns of which positions it did."""

    async def kept() -> list[int]:
        async with desk_of(agent) as desk:
            found: list[int] = json.loads((await desk.ask(KeepUpTo(position=position))).body)["made"]
            return found

    return asyncio.run(kept())


def on_checkpoints(agent: AgentProcess, do: Callable[[NatsCheckpoints], Awaitable[T]]) -> T:
    """Does something with the store of checkpoints, as an agent's node may."""

    async def done() -> T:
        async with Connection(nats_settings(config_of(agent))) as connection:
            await connection.wait_connected(DEADLINE_S)
            return await do(NatsCheckpoints(connection))

    return asyncio.run(done())


def told(agent: AgentProcess, **query: Any) -> dict[str, Any]:
    """Returns a page of events."""
    answer = agent.get("/api/events", **query)
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.body
    return found


def positions(agent: AgentProcess, **query: Any) -> list[int]:
    return [event["position"] for event in told(agent, **query)["events"]]


@contextmanager
def following(
    agent: AgentProcess, last_event_id: int | None = None, **query: Any
) -> Iterator[Iterator[dict[str, Any]]]:
    """Follows an agent's events, and gives them one after another as they come."""
    headers = {"Accept": "text/event-stream"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = str(last_event_id)
    url = f"{agent.url}/api/events"
    with requests.get(url, params=query, headers=headers, stream=True, timeout=(5, 20)) as response:
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"] == "text/event-stream"
        yield _events(response)


def _events(response: requests.Response) -> Iterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    for line in response.iter_lines(chunk_size=None, decode_unicode=True):
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif "data" in fields:
            yield {"sse": fields["event"], "sse_id": int(fields["id"]), **json.loads(fields["data"])}
            fields = {}
