"""`events tail`: what applications tell one another, a line each, as it happens or as it was kept."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import select
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.cli.durations import Duration
from pmoves_mesh.cli.streams import only_errors
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import LogError, RightMissing
from pmoves_mesh.log.application import keepers
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.tail import Heard, kept

_CONNECT_WITHIN_S: Final = 5.0
_PIPE_POLL_S: Final = 0.5
_DAY_S: Final = 86_400
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


class _PipeEnded(Exception):
    """Nobody reads any more what is printed."""


@click.command(
    "tail",
    epilog=example(
        "pmoves-mesh events tail 'ingest.>'",
        "pmoves-mesh events tail ingest.file.added.v1 --since 1h --json | jq -c .payload",
    ),
)
@click.argument("subject")
@click.option("--since", type=Duration(1, 3650 * _DAY_S), help="Begin so long ago, such as 15m or 7d.")
@click.option("--json", "as_json", is_flag=True, help="Print each message as one line of JSON.")
def tail_command(*, subject: str, since: int | None, as_json: bool) -> None:
    """Show each message on SUBJECT, which may hold wildcards, until it is interrupted.

    It begins now, or with --since at what the streams keep from then on, the oldest first. Through a
    break of the connection it goes on; what no stream keeps and is told meanwhile is missed.
    """
    tokens = subject.split(".")
    if "" in tokens or " " in subject or ">" in tokens[:-1]:
        raise click.BadParameter(f"{shown(subject)} is no subject of NATS", param_hint="SUBJECT")
    only_errors()
    config = read_config()
    show = _as_json if as_json else _as_line
    try:
        asyncio.run(_tail(config, subject, since, show))
    except KeyboardInterrupt:
        click.echo(err=True)
    except (BrokenPipeError, _PipeEnded):
        # Whoever read this has enough; what the interpreter still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _tail(config: Config, subject: str, since_s: int | None, show: Callable[[Heard], str]) -> None:
    async with Connection(nats_settings(config)) as connection:
        await connection.wait_connected(_CONNECT_WITHIN_S)
        printing = asyncio.create_task(_print(connection, subject, since_s, show))
        watching = asyncio.create_task(_until_nobody_reads())
        try:
            done, _ = await asyncio.wait((printing, watching), return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            printing.cancel()
            watching.cancel()
            await asyncio.gather(printing, watching, return_exceptions=True)


async def _print(
    connection: Connection, subject: str, since_s: int | None, show: Callable[[Heard], str]
) -> None:
    clock = SystemClock()
    if since_s is not None:
        await _print_all(_from_streams(connection, subject, clock.now_ms() - since_s * 1000), show)
        return
    try:
        await _print_all(_as_it_comes(connection, subject), show)
    except RightMissing:
        # A node of a secured mesh hears applications through their streams alone: docs/adr/0044.
        await _print_all(_from_streams(connection, subject, None), show)


async def _print_all(messages: AsyncGenerator[Heard, None], show: Callable[[Heard], str]) -> None:
    async with aclosing(messages):
        async for heard in messages:
            click.echo(show(heard))
            sys.stdout.flush()


async def _as_it_comes(connection: Connection, subject: str) -> AsyncGenerator[Heard, None]:
    clock = SystemClock()
    async with aclosing(connection.subscribe_core(subject)) as messages:
        async for name, payload in messages:
            yield Heard(subject=name, payload=payload, time_ns=clock.now_ms() * 1_000_000)


async def _from_streams(
    connection: Connection, subject: str, since_ms: int | None
) -> AsyncGenerator[Heard, None]:
    streams = await keepers(connection, subject)
    if not streams:
        raise LogError(f"no stream keeps what is told on {subject}; leave out --since to hear what comes")
    async with aclosing(kept(connection, streams, subject, since_ms)) as messages:
        async for heard in messages:
            yield heard


async def _until_nobody_reads() -> None:
    """Ends when the reader of a pipe is gone, which a quiet subject would not show.

    Raises:
        _PipeEnded: then.

    Source: poll(2), POLLERR: the read end of a pipe was closed.
    """
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    while True:
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise _PipeEnded
        await asyncio.sleep(_PIPE_POLL_S)


def _as_line(heard: Heard) -> str:
    return f"{_time(heard)}  {cell(heard.subject)}  {cell(heard.payload.decode(errors='replace'))}"


def _as_json(heard: Heard) -> str:
    """Returns a message as a line of JSON, in which what was sent as JSON stands as it was sent."""
    around = {"time": _time(heard), "subject": heard.subject}
    if heard.stream:
        around |= {"stream": heard.stream, "position": heard.position}  # type: ignore[dict-item]
    opened = json.dumps(around, ensure_ascii=False)[:-1]
    text = _json_text(heard.payload)
    if text is None:
        encoded = base64.b64encode(heard.payload).decode()
        return f'{opened}, "payload_base64": "{encoded}"}}'
    return f'{opened}, "payload": {text}}}'


def _json_text(payload: bytes) -> str | None:
    """Returns a payload if it is JSON, with blanks for line breaks: those stand between its values alone."""
    try:
        msgspec.json.decode(payload)
        return payload.translate(_LINE_BREAKS).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _time(heard: Heard) -> str:
    time = datetime.fromtimestamp(heard.time_ns / 1e9, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
