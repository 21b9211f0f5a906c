"""Reading an agent's server-sent events, through breaks of the connection too.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any, Final, NamedTuple

import click

from pmoves_mesh.cli.client import AgentClient, Refused

EVENT_STREAM: Final = "text/event-stream"
RETRY_MAX_S: Final = 10.0
_SERVER_ERRORS: Final = 500

# Three comments of 15 s that did not come: whatever is at the other end, it is not there any more.
_SILENCE_S: Final = 45.0


class StreamEvent(NamedTuple):
    """One server-sent event: its name, the position that its id is, and what its data says."""

    name: str
    position: str
    data: Any


def follow(
    client: AgentClient, path: str, query: dict[str, str], *, after: str = ""
) -> Iterator[StreamEvent]:
    """Yields events without end, from one connection after another; says on stderr when one broke.

    Args:
        client: the agent that is asked.
        path: the route.
        query: its parameters.
        after: the position up to which the reader was told already; empty if it begins.

    Raises:
        click.ClickException: if a reader that begins finds no agent, or one refuses what is asked.
    """
    position, begun, failures = after, bool(after), 0

    def met() -> None:
        nonlocal begun, failures
        begun, failures = True, 0

    while True:
        try:
            for event in connected(client, path, query, after=position, met=met):
                if event.name != "end":  # whose position is the agent's, whatever it told
                    position = event.position
                    yield event
        except (OSError, http.client.HTTPException) as error:
            if not begun:
                raise client.unanswered() from error
        except click.ClickException as error:
            if not begun or (isinstance(error, Refused) and error.status < _SERVER_ERRORS):
                raise
        if not failures:
            click.echo(f"pmoves-mesh: the connection to {client.url} broke; trying again", err=True)
        sleep(retry_s(failures))
        failures += 1


def connected(
    client: AgentClient,
    path: str,
    query: dict[str, str],
    *,
    after: str = "",
    met: Callable[[], None] = lambda: None,
) -> Iterator[StreamEvent]:
    """Yields the events of one connection, until it ends.

    Args:
        client: the agent that is asked.
        path: the route.
        query: its parameters.
        after: the position up to which everything is known; empty if nothing is.
        met: called once the agent has begun to answer.

    Raises:
        OSError: if no agent answers, or the connection breaks.
        http.client.HTTPException: if what answers breaks off in the middle.
        click.ClickException: if the agent answers with a problem, or what answers is none.
    """
    headers = {"Accept": EVENT_STREAM} | ({"Last-Event-ID": after} if after else {})
    with client.stream(path, query, headers, _SILENCE_S) as response:
        if response.headers.get_content_type() != EVENT_STREAM:
            raise click.ClickException("what answers is not a pmoves-mesh agent that can be watched")
        met()
        yield from _read(response)


def retry_s(failures: int) -> float:
    """Returns how long to wait after so many failures in a row, in seconds."""
    return min(RETRY_MAX_S, 0.5 * 2.0 ** min(failures, 10))


def _read(response: http.client.HTTPResponse) -> Iterator[StreamEvent]:
    """Yields the events of an answer.

    Source: WHATWG HTML, section 9.2.6 (interpreting an event stream).
    """
    fields: dict[str, str] = {}
    while line := response.readline().decode():
        name, _, value = line.rstrip("\n").partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif line == "\n":
            if "data" in fields:
                yield StreamEvent(fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
