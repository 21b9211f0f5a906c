"""The SDK's synchronous twin, for programs without an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from agents import AgentProcess, eventually, mesh_in

from pmoves_mesh import Change, Message, SyncMesh
from pmoves_mesh import Mesh as Sdk
from pmoves_mesh.config import Config, load
from pmoves_mesh.errors import InvalidFieldError, ServiceNotFound


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh.started("alpha")


@pytest.fixture
def config(alpha: AgentProcess) -> Config:
    return load({**alpha.environment, "SERVICE_REGISTRY_URL": alpha.url}, alpha.directory)


@pytest.fixture
def mesh(config: Config) -> Iterator[SyncMesh]:
    with Sdk.connect_sync(config=config) as mesh:
        yield mesh


def knows(mesh: SyncMesh, name: str) -> bool:
    try:
        mesh.resolve(name)
    except ServiceNotFound:
        return False
    return True


def test_a_program_without_a_loop_registers_finds_and_leaves(alpha: AgentProcess, mesh: SyncMesh):
    assert (mesh.node, mesh.problem) == ("alpha", "")
    with mesh.register("whisper", port=9000, capabilities=["stt"]) as registered:
        assert registered.instance is not None
        assert registered.problem == ""
        eventually(lambda: knows(mesh, "whisper"), "found")
        assert mesh.resolve("whisper").address == "127.0.0.1:9000"
        assert [one.name for one in mesh.discover("stt")] == ["whisper"]
        with mesh.using("whisper") as instance:
            assert instance.port == 9000
        mesh.failed(instance)
        registered.unhealthy("busy")
        eventually(lambda: not mesh.discover("stt"), "not well")
        registered.healthy()
    assert not alpha.knows("whisper")
    assert mesh.position > 0


def test_what_the_agent_refuses_is_raised_in_the_callers_thread(mesh: SyncMesh):
    with pytest.raises(InvalidFieldError, match="not one DNS label"), mesh.register("not a name"):
        pass


def test_a_body_that_fails_leaves_the_mesh_and_raises_what_it_raised(alpha: AgentProcess, mesh: SyncMesh):
    with pytest.raises(ZeroDivisionError), mesh.register("brief", port=1):
        raise ZeroDivisionError
    assert not alpha.knows("brief")


def test_many_threads_resolve_while_the_mesh_changes(alpha: AgentProcess, mesh: SyncMesh):
    alpha.register("busy", id="0", host="127.0.0.1", port=1)
    eventually(lambda: knows(mesh, "busy"), "known")
    over = threading.Event()
    problems: list[BaseException] = []

    def resolve() -> None:
        try:
            while not over.is_set():
                assert mesh.resolve("busy").name == "busy"
                with mesh.using("busy"):
                    pass
        except BaseException as error:  # noqa: BLE001 - a thread's error is told to the test
            problems.append(error)

    threads = [threading.Thread(target=resolve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 40):
        alpha.register("busy", id=str(number), host="127.0.0.1", port=number, metadata={"weight": number})
    eventually(lambda: len(mesh.discover(name="busy")) == 40, "all are known")
    over.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_watch_and_a_subscription_are_plain_iterators(alpha: AgentProcess, mesh: SyncMesh):
    alpha.register("watched", host="127.0.0.1", port=1)
    for change in mesh.watch("watched"):
        assert isinstance(change, Change)
        break
    heard: list[Message] = []
    listening = threading.Thread(target=lambda: heard.append(next(iter(mesh.subscribe("app.>")))))
    listening.start()

    def spoken() -> bool:
        mesh.publish("app.x", "hello")
        return bool(heard)

    eventually(spoken, "heard")
    listening.join()
    assert heard[0].payload == b"hello"


def test_leaving_ends_what_still_waits_in_other_threads(config: Config):
    with Sdk.connect_sync(config=config) as mesh:
        seen: list[Change] = []
        waiting = threading.Thread(target=lambda: seen.extend(mesh.watch("nobody")))
        waiting.start()
        begin = time.perf_counter()
    waiting.join(10)
    assert not waiting.is_alive()
    assert time.perf_counter() - begin < 5
    assert seen == []


def test_what_is_asked_outside_of_the_context_is_refused(config: Config):
    mesh = Sdk.connect_sync(config=config)
    with pytest.raises(RuntimeError, match="enter the mesh first"):
        mesh.resolve("whisper")
