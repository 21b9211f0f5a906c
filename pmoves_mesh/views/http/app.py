"""The HTTP server: routes put together, bound to an address, and taken down again."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from pmoves_mesh.core.names import BODY_BYTES_MAX
from pmoves_mesh.errors import StartError
from pmoves_mesh.views.http import answers, inputs, openapi, problems
from pmoves_mesh.views.http.facade import FACADE, Facade
from pmoves_mesh.views.http.guard import check_may_write
from pmoves_mesh.views.http.reads import ENDPOINTS, OPENAPI
from pmoves_mesh.views.http.routes import ROUTES, Route

WAIT_POSITION_S: Final = 5.0

_KEEPALIVE_S: Final = 75.0
_LINGER_S: Final = 1.0
_STOP_S: Final = 0.5


def build_app(facade: Facade) -> web.Application:
    """Returns the aiohttp application that serves `facade`."""
    app = web.Application(middlewares=[problems.answer_problems], client_max_size=BODY_BYTES_MAX)
    app[FACADE] = facade
    app[ENDPOINTS] = {f"{route.method} {route.path}": route.summary for route in ROUTES}
    app[OPENAPI] = openapi.document(ROUTES)
    app.on_response_prepare.append(answers.finish_headers)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(route))
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _handler(route))
    return app


@asynccontextmanager
async def serving(facade: Facade, host: str, port: int) -> AsyncIterator[int]:
    """Serves `facade` while the context lasts, and yields the port; its end takes at most 2 s.

    A request that is not HTTP at all is answered by aiohttp itself, with 400 and one line of text.

    Args:
        facade: what is served.
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.

    Raises:
        StartError: if it cannot listen there.
    """
    runner = web.AppRunner(
        build_app(facade),
        access_log=None,
        logger=_protocol_log(),
        keepalive_timeout=_KEEPALIVE_S,
        lingering_time=_LINGER_S,
        shutdown_timeout=_STOP_S,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            problem = f"port {port} is taken" if taken else error.strerror or str(error)
            raise StartError(f"cannot listen on {host} port {port}: {problem}") from error
        yield site.port
    finally:
        await runner.cleanup()


def _handler(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        replica = request.app[FACADE].replica
        if route.writes:
            check_may_write(request)
        if route.waits and (position := inputs.parse_position(request)):
            await replica.wait_position(position, WAIT_POSITION_S)
        position = replica.position
        return await answers.send(request, await route.handle(request), position)

    return handle


def _protocol_log() -> logging.Logger:
    """Returns the logger for the server below the routes, without what is only a client's bad HTTP."""
    log = logging.getLogger(__name__)
    log.addFilter(_not_bad_http)
    return log


def _not_bad_http(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
