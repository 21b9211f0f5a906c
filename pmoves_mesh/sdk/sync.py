"""The synchronous twin of `Mesh`: the same, for programs without an event loop.

One thread in the background runs a loop with a `Mesh` in it. What is answered from memory is answered
in the caller's own thread; everything may be called from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from pmoves_mesh.core.application import ApplicationEvent
from pmoves_mesh.core.choice import Preference
from pmoves_mesh.sdk.changes import Change
from pmoves_mesh.sdk.instance import Instance
from pmoves_mesh.sdk.messages import Message
from pmoves_mesh.sdk.registration import Details, Registered

if TYPE_CHECKING:
    from pmoves_mesh.sdk.mesh import Mesh

_T = TypeVar("_T")

_END_S: Final = 10.0


class SyncRegistered:
    """An instance of this program; see `Registered`."""

    def __init__(self, registered: Registered, loop: asyncio.AbstractEventLoop) -> None:
        self._registered = registered
        self._loop = loop

    @property
    def instance(self) -> Instance | None:
        """As the agent registered it last; None until it did."""
        return self._registered.instance

    @property
    def problem(self) -> str:
        """Why it is not registered now; empty if it is."""
        return self._registered.problem

    def healthy(self, output: str = "") -> None:
        """Says that the program is well; see `Registered.healthy`."""
        asyncio.run_coroutine_threadsafe(self._registered.healthy(output), self._loop).result()

    def unhealthy(self, output: str = "") -> None:
        """Says that the program is not well; see `Registered.unhealthy`."""
        asyncio.run_coroutine_threadsafe(self._registered.unhealthy(output), self._loop).result()


class SyncMesh:
    """A program's place in the mesh; `Mesh.connect_sync` makes it. Its methods are those of `Mesh`."""

    def __init__(self, make: Callable[[], Mesh]) -> None:
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mesh: Mesh | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Connects; raises as `Mesh` does when it is entered."""
        begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(begun,), name="pmoves-mesh", daemon=True)
        self._thread.start()
        begun.result()
        return self

    def __exit__(self, *_error: object) -> None:
        loop, stop, thread = self._loop, self._stop, self._thread
        if loop is not None and stop is not None and thread is not None:
            loop.call_soon_threadsafe(stop.set)
            thread.join(_END_S)

    @property
    def node(self) -> str:
        """The node of this host, or of the agent that is asked; empty until it is known."""
        return self._entered.node

    @property
    def position(self) -> int:
        """The position of the stream up to which the mesh is known."""
        return self._entered.position

    @property
    def problem(self) -> str:
        """Why the mesh is not followed now; empty while it is."""
        return self._entered.problem

    @contextmanager
    def register(self, name: str, *, port: int = 0, **details: Unpack[Details]) -> Iterator[SyncRegistered]:
        """Registers this program while the context lasts; see `Mesh.register`."""
        with self._within(self._entered.register(name, port=port, **details)) as registered:
            yield SyncRegistered(registered, self._running)

    def resolve(self, name: str) -> Instance:
        """Returns where the next call to a service goes; see `Mesh.resolve`."""
        return self._entered.resolve(name)

    @contextmanager
    def using(self, name: str) -> Iterator[Instance]:
        """Resolves for as long as a call takes; see `Mesh.using`."""
        with self._entered.using(name) as instance:
            yield instance

    def failed(self, instance: Instance) -> None:
        """Tells that a call failed; see `Mesh.failed`."""
        self._entered.failed(instance)

    def discover(
        self,
        *capabilities: str,
        name: str | None = None,
        where: Mapping[str, Any] | None = None,
        prefer: Preference | None = None,
        limit: int | None = None,
    ) -> list[Instance]:
        """Returns the instances that can serve all capabilities; see `Mesh.discover`."""
        mesh = self._entered
        return self._call(mesh.discover(*capabilities, name=name, where=where, prefer=prefer, limit=limit))

    def watch(self, name: str | None = None, *capabilities: str) -> Iterator[Change]:
        """Yields every instance, then each change, without end; see `Mesh.watch`."""
        return self._each(lambda mesh: mesh.watch(name, *capabilities))

    def publish(self, subject: str, payload: object) -> None:
        """Publishes on an application subject; see `Mesh.publish`."""
        self._call(self._entered.publish(subject, payload))

    def record(self, event: ApplicationEvent, *, source: str = "") -> int:
        """Tells an event so that it is kept; see `Mesh.record`."""
        return self._call(self._entered.record(event, source=source))

    def subscribe(self, subject: str, *, queue: str = "") -> Iterator[Message]:
        """Yields what is published on a subject; see `Mesh.subscribe`."""
        return self._each(lambda mesh: mesh.subscribe(subject, queue=queue))

    # The loop in the background

    def _run(self, begun: Future[None]) -> None:
        try:
            asyncio.run(self._live(begun))
        except BaseException as error:  # whatever it is, the caller's thread is told
            if begun.done():
                raise
            begun.set_exception(error)

    async def _live(self, begun: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._make() as self._mesh:
            begun.set_result(None)
            await self._stop.wait()

    @property
    def _entered(self) -> Mesh:
        """Raises `RuntimeError` outside of the context."""
        if self._mesh is None:
            raise RuntimeError("enter the mesh first: with Mesh.connect_sync() as mesh")
        return self._mesh

    @property
    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("enter the mesh first: with Mesh.connect_sync() as mesh")
        return self._loop

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Returns what is awaited in the background; a wait that is interrupted ends it there too."""
        future = asyncio.run_coroutine_threadsafe(work, self._running)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @contextmanager
    def _within(self, context: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
        """Enters a context in the background, and leaves it there, in one and the same task."""
        entered: Future[_T] = Future()
        leave = asyncio.Event()

        async def hold() -> None:
            try:
                async with context as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        loop = self._running
        holding = asyncio.run_coroutine_threadsafe(hold(), loop)
        try:
            yield entered.result()
        finally:
            loop.call_soon_threadsafe(leave.set)
            holding.result(_END_S)

    def _each(self, items: Callable[[Mesh], AsyncGenerator[_T, None]]) -> Iterator[_T]:
        """Yields one after the other; nothing is asked for before it is wanted."""
        iterator = items(self._entered)
        try:
            while True:
                yield self._call(_next(iterator))
        except CancelledError:
            return  # another thread has left the mesh meanwhile
        finally:
            if not self._running.is_closed():
                self._call(iterator.aclose())


async def _next(iterator: AsyncGenerator[_T, None]) -> _T:
    return await anext(iterator)
