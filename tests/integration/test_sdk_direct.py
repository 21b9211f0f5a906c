"""The SDK on NATS itself: its own replica, which verifies, with no agent to ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import AgentProcess, mesh_in, note
from agents import Mesh as Place
from nats_server import NatsServer
from plain_nats import plain_client, publish
from ports import free_port
from secured_host import SecuredHost

from pmoves_mesh import Mesh
from pmoves_mesh.config import load
from pmoves_mesh.errors import InvalidFieldError, LogError, LogUnavailable, PkiError, RightMissing

SOON_S = 20.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as place:
        place.started("alpha")
        place.started("beta")
        yield place


@asynccontextmanager
async def direct(agent: AgentProcess, nats: str, identity: str = "", **settings: str) -> AsyncIterator[Mesh]:
    """A program on an agent's host that follows the stream itself."""
    environment = {**agent.environment, "SERVICE_REGISTRY_URL": agent.url, **settings}
    config = load(environment, agent.directory)
    async with Mesh.connect(nats=nats, identity=identity, config=config) as mesh:
        yield mesh


async def soon(condition: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(SOON_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {SOON_S:g} s: {what}")


def ids(mesh: Mesh, service: str) -> list[str]:
    return sorted(one.id for one in mesh._directory.of_service(service))


async def test_it_follows_the_stream_and_sees_what_every_agent_sees(place: Place):
    alpha, beta = place.agents["alpha"], place.agents["beta"]
    alpha.register("rag", id="a", host="127.0.0.1", port=1, capabilities=["rag"])
    async with direct(alpha, place.server.url) as mesh:
        await soon(lambda: ids(mesh, "rag") == ["a"], "what was there")
        beta.register("rag", id="b", host="127.0.0.1", port=2, capabilities=["rag"])
        await soon(lambda: ids(mesh, "rag") == ["a", "b"], "what came")
        assert {one.signer for one in await mesh.discover("rag")} == {
            "spiffe://pmoves-mesh/node/alpha",
            "spiffe://pmoves-mesh/node/beta",
        }
        assert mesh.resolve("rag").id == "a", "the own node comes first"
        alpha.delete("/api/services/rag", id="a")
        await soon(lambda: ids(mesh, "rag") == ["b"], "what went")
        assert mesh.resolve("rag").id == "b"
    beta.delete("/api/services/rag")


async def test_what_nobody_of_the_mesh_signed_is_not_believed(place: Place):
    alpha = place.agents["alpha"]
    async with direct(alpha, place.server.url) as mesh, plain_client(place.server.url) as stranger:
        said = {"type": "registered", "service": "evil", "data": {"name": "evil", "port": 666}}
        await publish(stranger, "service.registry.registered", json.dumps(said).encode())
        alpha.register("after", host="127.0.0.1", port=1)
        await soon(lambda: ids(mesh, "after"), "what came after it")
        assert ids(mesh, "evil") == []


async def test_it_goes_on_without_any_agent_and_without_nats(tmp_path: Path):
    with mesh_in(tmp_path) as place:
        alpha = place.started("alpha")
        alpha.register("rag", host="127.0.0.1", port=1)
        async with direct(alpha, place.server.url) as mesh:
            await soon(lambda: ids(mesh, "rag"), "known")
            await asyncio.to_thread(alpha.kill)
            place.server.kill()
            await soon(lambda: mesh.problem, "it sees that NATS is away")
            assert mesh.resolve("rag").port == 1
            place.server.start()
            await asyncio.to_thread(alpha.restart)
            alpha.register("later", host="127.0.0.1", port=2)
            await soon(lambda: ids(mesh, "later") and not mesh.problem, "it follows again")


async def test_a_registration_goes_through_the_agent_of_this_host(place: Place):
    alpha, beta = place.agents["alpha"], place.agents["beta"]
    async with direct(alpha, place.server.url) as mesh, mesh.register("mine", port=7100) as registered:
        assert registered.problem == ""
        await soon(lambda: ids(mesh, "mine") == ["7100"], "seen in the stream")
        await soon(lambda: beta.knows("mine"), "seen by the others")
    assert not alpha.knows("mine")


async def test_a_server_that_is_not_there_or_holds_no_mesh_is_said_at_once(
    place: Place, nats_server: NatsServer
):
    alpha = place.agents["alpha"]
    with pytest.raises(LogUnavailable):
        async with direct(alpha, f"nats://127.0.0.1:{free_port()}"):
            pass
    with pytest.raises(LogError, match="gone"):
        async with direct(alpha, nats_server.url):
            pass


# In a secured mesh


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredHost]:
    with SecuredHost(tmp_path_factory.mktemp("secured")) as main:
        main.ready()
        for service in ("whisper", "hirag"):
            main.certify(service)
        yield main


async def logged_in(mesh: Mesh) -> None:
    """Returns once the server knows the identity, which was issued a moment ago."""
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                await mesh.publish("app.begin", b"")
            except LogError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_services_talk_with_their_own_identities(main: SecuredHost):
    config = load({**main.environment, "SERVICE_REGISTRY_URL": main.url}, main.directory)
    async with (
        Mesh.connect(identity="whisper", config=config) as whisper,
        Mesh.connect(identity="hirag", config=config) as hirag,
        whisper.register("whisper", port=9000),
    ):
        await logged_in(whisper)
        await logged_in(hirag)
        heard = hirag.subscribe("app.said")
        waiting = asyncio.ensure_future(anext(heard))
        async with asyncio.timeout(SOON_S):
            while not waiting.done():
                await whisper.publish("app.said", {"text": "hello"})
                await asyncio.sleep(0.02)
        assert (await waiting).json() == {"text": "hello"}
        await heard.aclose()
        await soon(lambda: ids(hirag, "whisper") == ["9000"], "found through the agent")


async def test_a_service_of_a_secured_mesh_is_told_to_ask_its_agent(main: SecuredHost):
    with pytest.raises(RightMissing, match="leave out `nats`"):
        async with direct(main, main.nats_url, identity="whisper"):
            pass


async def test_whoever_may_read_the_nodes_files_follows_a_secured_stream(main: SecuredHost):
    main.register("sealed", host="127.0.0.1", port=1)
    async with direct(main, main.nats_url) as mesh:
        await soon(lambda: ids(mesh, "sealed"), "known")
        note(f"position {mesh.position}")


async def test_an_identity_that_was_never_issued_is_named(main: SecuredHost):
    with pytest.raises(PkiError, match="certs issue --service nobody"):
        async with direct(main, main.nats_url, identity="nobody"):
            pass
    with pytest.raises(InvalidFieldError):
        async with direct(main, main.nats_url, identity="../node"):
            pass
