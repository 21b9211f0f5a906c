"""The agent as a process: its event loop, its signals and its log."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from contextlib import suppress
from typing import Final

import structlog
import uvloop

from pmoves_mesh import __version__
from pmoves_mesh.agent.agent import serve
from pmoves_mesh.agent.logs import configure_logging
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.errors import MeshError

_log: Final = structlog.get_logger(__name__)


def run(config: Config) -> None:
    """Runs the agent of this host until it gets SIGTERM or SIGINT.

    Raises:
        MeshError: one of its subclasses, if the agent cannot start or go on.
    """
    configure_logging()
    _open_many_files()
    try:
        uvloop.run(_until_signalled(config))
    except MeshError:
        raise
    except Exception as error:
        # Not `except*`: what it raises is put into a group again, and that depends on the Python.
        expected = _only_expected(error)
        if expected is None:
            _log.exception("agent failed")
            raise
        raise expected from None


async def _until_signalled(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def listening(port: int) -> None:
        gc.freeze()
        gc.enable()
        url = f"http://{config.http_host}:{port}"
        _log.info("agent started", mesh=config.mesh, node=config.node, http=url, version=__version__)

    await serve(config, SystemClock(), stop, listening=listening)
    _log.info("agent stopped", node=config.node)


def _open_many_files() -> None:
    """Takes as many open files as the host grants: each watcher needs one, and most shells give only 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _only_expected(error: Exception) -> MeshError | None:
    """Returns the first error of a group, if all of them are ours: a person needs one line of it."""
    if isinstance(error, MeshError):
        return error
    if not isinstance(error, ExceptionGroup):
        return None
    found = [_only_expected(inner) for inner in error.exceptions]
    return None if None in found else found[0]
