"""The HTTP server: routes put together, bound to an address, and taken down again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from pmoves_mesh.core.names import BODY_BYTES_MAX
from pmoves_mesh.errors import StartError
from pmoves_mesh.views.http import answers, blocking, inputs, measured, openapi, problems, watches
from pmoves_mesh.views.http.blocking import BLOCKING, Blocking
from pmoves_mesh.views.http.console import pages
from pmoves_mesh.views.http.console.pages import FILES
from pmoves_mesh.views.http.consul import routes as consul
from pmoves_mesh.views.http.consul.catalogue import CATALOGUE, Catalogue
from pmoves_mesh.views.http.facade import FACADE, Facade
from pmoves_mesh.views.http.limits import LIMITS, Bounds, Limits
from pmoves_mesh.views.http.listener import BACKLOG, Exposure, Listener, bind, is_local
from pmoves_mesh.views.http.prometheus import TARGETS, Targets
from pmoves_mesh.views.http.protocol import HttpConnection
from pmoves_mesh.views.http.quick import QuickAnswers
from pmoves_mesh.views.http.reads import ENDPOINTS, OPENAPI
from pmoves_mesh.views.http.route import Route
from pmoves_mesh.views.http.routes import ROUTES
from pmoves_mesh.views.http.watches import WATCHES, Watches

WAIT_POSITION_S: Final = 5.0

_KEEPALIVE_S: Final = 75.0
_LINGER_S: Final = 1.0
_STOP_S: Final = 0.5
_GONE_TURNS_MAX: Final = 100
_NOT_EXPOSED: Final = Exposure()
_USUAL: Final = Bounds()

_log: Final = structlog.get_logger(__name__)


def build_app(facade: Facade, bounds: Bounds = _USUAL) -> web.Application:
    """Returns the aiohttp application that serves `facade`."""
    app = web.Application(
        middlewares=[measured.measure, problems.answer_problems], client_max_size=BODY_BYTES_MAX
    )
    app[FACADE] = facade
    app[LIMITS] = Limits(bounds, facade.clock)
    app[BLOCKING] = Blocking(facade.replica, facade.clock)
    app[CATALOGUE] = Catalogue(facade)
    app[TARGETS] = Targets()
    app[FILES] = pages.load()
    app[WATCHES] = Watches(facade.replica, facade.clock, facade.settled)
    facade.readers["events"] = lambda: app[WATCHES].watching
    facade.readers["polls"] = lambda: app[BLOCKING].waiting
    app.cleanup_ctx.extend((blocking.follow, watches.follow))
    app.on_shutdown.extend((blocking.end, watches.end))
    app[ENDPOINTS] = {f"{route.method} {route.path}": route.summary for route in ROUTES}
    document: Callable[[], bytes] = cache(lambda: openapi.document(ROUTES))
    app[OPENAPI] = document
    app.on_response_prepare.append(answers.finish_headers)
    for route in (*ROUTES, *consul.ROUTES, *pages.ROUTES):
        app.router.add_route(route.method, route.path, _handler(route))
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _handler(route))
    return app


@asynccontextmanager
async def serving(
    facade: Facade, host: str, port: int, *, exposure: Exposure = _NOT_EXPOSED, bounds: Bounds = _USUAL
) -> AsyncIterator[int]:
    """Serves `facade` while the context lasts, and yields the port; its end takes at most 2 s.

    A request that is not HTTP at all is answered by aiohttp itself, with 400 and one line of text.

    Args:
        facade: what is served.
        host: the address to listen on.
        port: the port to listen on; 0 picks a free one.
        exposure: how other hosts may reach it, where the address is not loopback.
        bounds: what a client may take.

    Raises:
        StartError: if it cannot listen there, or other hosts would reach it without TLS.
        PkiError: if the files for TLS cannot be used.
    """
    sockets = await bind(host, port)
    try:
        local = is_local(sockets)
        if not local:
            _check_exposure(host, exposure)
        runner = web.AppRunner(build_app(facade, bounds), shutdown_timeout=_STOP_S)
        await runner.setup()
        connections = _Connections(runner, QuickAnswers(facade, runner.app[LIMITS]), bounds)
        listener = None if local else Listener(sockets, connections.make, exposure, bounds)
    except BaseException:
        for one in sockets:
            one.close()
        raise
    servers: list[asyncio.Server] = []
    try:
        if listener:
            listener.start()
        else:
            loop = asyncio.get_running_loop()
            servers += [
                await loop.create_server(connections.make, sock=one, backlog=BACKLOG) for one in sockets
            ]
        yield sockets[0].getsockname()[1]
    finally:
        if listener:
            await listener.close()
        for server in servers:
            server.close()
        await runner.cleanup()
        await connections.end()


class _Connections:
    """Makes the connections of one server, and sees them gone."""

    def __init__(self, runner: web.AppRunner, quick: QuickAnswers, bounds: Bounds) -> None:
        self._runner = runner
        self._open: set[HttpConnection] = set()
        self._options: Final[dict[str, Any]] = {
            "header_s": bounds.header_s,
            "quick": quick.answer,
            "keepalive_timeout": _KEEPALIVE_S,
            "lingering_time": _LINGER_S,
            "access_log": None,
            "logger": _protocol_log(),
            "auto_decompress": False,
        }

    def make(self, *, on_end: Callable[[], None] | None = None) -> HttpConnection:
        """Returns the protocol of a new connection."""
        server = self._runner.server
        if server is None:
            raise ConnectionAbortedError("the server has ended")
        return HttpConnection(server, live=self._open, on_end=on_end, **self._options)

    async def end(self) -> None:
        """Ends what is still open: a TLS client may take its time to say goodbye, and gets none."""
        for connection in tuple(self._open):
            connection.abort()
        for _ in range(_GONE_TURNS_MAX):
            if not self._open:
                return
            await asyncio.sleep(0)  # each of them is told in a turn of the loop


def _check_exposure(host: str, exposure: Exposure) -> None:
    if exposure.insecure:
        _log.warning("PMOVES_INSECURE_HTTP=1: other hosts use the HTTP API without TLS", host=host)
    elif exposure.tls is None:
        raise StartError(
            f"SERVICE_REGISTRY_HOST={host} is reached by other hosts: that needs TLS, and so an identity "
            "of this node, or PMOVES_INSECURE_HTTP=1"
        )


def _handler(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        replica = request.app[FACADE].replica
        request.app[LIMITS].check(request.remote or "", route.cost)
        if route.guard is not None:
            route.guard(request)
        if isinstance(request.protocol, HttpConnection):
            request.protocol.may_break_off = request.method in {"GET", "HEAD"}
        if route.waits and (position := inputs.parse_position(request)):
            await replica.wait_position(position, WAIT_POSITION_S)
        position = replica.position
        answer = await route.handle(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        return await answers.send(request, answer, position)

    return handle


def _protocol_log() -> logging.Logger:
    """Returns the logger for the server below the routes, without what is only a client's bad HTTP."""
    log = logging.getLogger(__name__)
    log.addFilter(_not_bad_http)
    return log


def _not_bad_http(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
