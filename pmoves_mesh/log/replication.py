"""On how many servers a stream is kept: three where the servers are a cluster, else one.

No setting says so. Whoever may make a stream asks for three replicas where the server names its
cluster, and is refused where that has fewer servers; only then it is one.

Source: NATS ADR-1 (JetStream JSON API); docs.nats.io, "JetStream Clustering".
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pmoves_mesh.log import api
from pmoves_mesh.log.api import Refused, StreamInfo, call
from pmoves_mesh.log.session import Session

_CLUSTERED: Final = 3
_ALONE: Final = 1
_TIMEOUT_S: Final = 5.0
_FORMING_S: Final = 5.0
"""Servers that start together see one another after a second or two. Until then two of three say
that they are too few, and a stream made at that moment would be on one of them alone."""

_RETRY_S: Final = 0.25


def replicas_wanted(session: Session) -> int:
    """Returns how many servers are to keep each stream, as far as this server's greeting tells."""
    return _CLUSTERED if session.info.get("cluster") else _ALONE


async def is_whole(session: Session, stream: str) -> bool:
    """Returns whether a stream is on as many servers as wanted, each of which has all of it.

    Raises:
        LogError: as `api.call` does.
    """
    info = await call(session, f"STREAM.INFO.{stream}", StreamInfo)
    if info.cluster is None:
        return replicas_wanted(session) == _ALONE
    others = info.cluster.replicas or []
    enough = 1 + len(others) >= replicas_wanted(session)
    return enough and info.cluster.leader != "" and all(one.current for one in others)


async def create(session: Session, config: dict[str, Any]) -> StreamInfo:
    """Makes a stream on as many servers as it asks for, or on one if the cluster has fewer.

    Raises:
        LogError: as `api.call` does.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + _FORMING_S
    while True:
        try:
            return await _send(session, "CREATE", config)
        except Refused as error:
            if not _too_few(error, config, _ALONE):
                raise
        if loop.time() < give_up_s:
            await asyncio.sleep(_RETRY_S)
        else:
            config = {**config, "num_replicas": _ALONE}


async def update(session: Session, held: StreamInfo, config: dict[str, Any]) -> StreamInfo:
    """Gives a stream another configuration; where servers are too few now, on as many as before.

    Raises:
        LogError: as `api.call` does.
    """
    try:
        return await _send(session, "UPDATE", config)
    except Refused as error:
        before = held.config.get("num_replicas", _ALONE)
        if not _too_few(error, config, before):
            raise
    config = {**config, "num_replicas": before}
    return held if config == held.config else await _send(session, "UPDATE", config)


async def _send(session: Session, verb: str, config: dict[str, Any]) -> StreamInfo:
    return await call(session, f"STREAM.{verb}.{config['name']}", StreamInfo, config, _TIMEOUT_S)


def _too_few(error: Refused, config: dict[str, Any], enough: int) -> bool:
    return error.err_code in api.TOO_FEW_SERVERS and config["num_replicas"] > enough
