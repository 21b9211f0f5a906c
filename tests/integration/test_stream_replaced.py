"""A stream that is not what it was: deleted, restored from a backup, truncated while an agent was away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import STREAM, plain_client

FAST = {"ANNOUNCE_SEC": "1", "PMOVES_RECONCILE_S": "1"}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        mesh.started("alpha", **FAST)
        mesh.started("beta", **FAST)
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


def register(agent: AgentProcess, first: int, end: int) -> set[str]:
    names = {f"of-{agent.node}-{number}" for number in range(first, end)}
    for name in sorted(names):
        agent.register(name, port=1)
    return names


def decree(agent: AgentProcess, *arguments: str) -> None:
    done = agent.run("deregister", *arguments)
    assert done.returncode == 0, done.stderr


def all_know(mesh: Mesh, names: set[str]) -> None:
    """Waits until every running agent knows these names and no others, and all agree."""
    running = [agent for agent in mesh.agents.values() if agent.is_running]
    eventually(
        lambda: all(agent.is_ready() and set(agent.names()) == names for agent in running),
        f"{', '.join(agent.node for agent in running)} know everything",
    )
    mesh.agree()


def check_same(agent: AgentProcess) -> None:
    """Waits until stream, bucket and replica say the same."""

    def same() -> bool:
        return agent.run("bucket", "check").returncode == 0

    eventually(same, f"nothing differs:\n{agent.run('bucket', 'check').stdout}")


async def delete_stream(mesh: Mesh, name: str) -> None:
    async with plain_client(mesh.server.url) as client:
        await client.jetstream().delete_stream(name)


async def test_a_stream_that_an_operator_deletes_while_agents_run_is_made_anew_and_filled(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = register(alpha, 0, 10) | register(beta, 0, 10)
    gone = mesh.started("gone", **FAST)
    names |= register(gone, 0, 3)
    decree(alpha, "beta/of-beta-9", "--force")
    names -= {"of-beta-9"}
    all_know(mesh, names)
    gone.terminate()
    before = alpha.registry["position"]
    await delete_stream(mesh, STREAM)
    eventually(lambda: alpha.is_ready() and beta.is_ready(), "both follow the new stream")
    for agent in (alpha, beta):
        eventually(lambda agent=agent: agent.registry["repairs"]["replaced"] == 1, "it is counted")
        assert any("made anew or restored" in warning for warning in agent.registry["warnings"])
        assert agent.logged("the stream is not what it was", kind="replaced")
    all_know(mesh, names)
    assert alpha.registry["position"] < before
    mesh.started("gamma", **FAST)
    all_know(mesh, names)
    decree(alpha, "beta/of-beta-9", "--lift")
    all_know(mesh, names | {"of-beta-9"})
    check_same(alpha)


async def test_agents_rebuild_the_mesh_when_the_server_loses_everything_and_decrees_keep_their_effect(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = register(alpha, 0, 10) | register(beta, 0, 10)
    decree(alpha, "beta/of-beta-9", "--force")
    names -= {"of-beta-9"}
    all_know(mesh, names)
    mesh.server.kill()
    shutil.rmtree(mesh.server.directory / "store")
    mesh.server.start()
    all_know(mesh, names)
    mesh.started("gamma", **FAST)
    all_know(mesh, names)
    check_same(alpha)


def test_a_stream_that_is_restored_from_an_old_backup_is_noticed_and_nothing_is_lost(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = register(alpha, 0, 5) | register(beta, 0, 5)
    beta.register("returning", port=1)
    all_know(mesh, names | {"returning"})
    mesh.server.stop()
    store, backup = mesh.server.directory / "store", mesh.server.directory / "backup"
    shutil.copytree(store, backup)
    mesh.server.start()
    names |= register(alpha, 5, 30) | register(beta, 5, 30)
    assert beta.delete("/api/services/returning").status in {200, 202}
    decree(alpha, "alpha/of-alpha-29", "--force")
    names -= {"of-alpha-29"}
    all_know(mesh, names)
    mesh.server.stop()
    shutil.rmtree(store)
    shutil.copytree(backup, store)
    mesh.server.start()
    eventually(
        lambda: all(agent.registry["repairs"]["replaced"] == 1 for agent in (alpha, beta)), "both notice"
    )
    all_know(mesh, names)
    mesh.started("gamma", **FAST)
    all_know(mesh, names)
    check_same(alpha)


def test_a_restored_stream_that_has_grown_past_where_an_agent_was_is_noticed_all_the_same(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = register(alpha, 0, 5)
    all_know(mesh, names)
    mesh.server.stop()
    store, backup = mesh.server.directory / "store", mesh.server.directory / "backup"
    shutil.copytree(store, backup)
    mesh.server.start()
    names |= register(beta, 0, 5)
    all_know(mesh, names)
    held = alpha.registry["position"]
    alpha.terminate()
    mesh.server.stop()
    shutil.rmtree(store)
    shutil.copytree(backup, store)
    mesh.server.start()
    beta.ready()
    names |= register(beta, 5, 25)
    eventually(lambda: beta.registry["position"] > held + 5, "the stream grows past where alpha was")
    alpha.restart()
    assert alpha.registry["repairs"]["replaced"] == 1
    all_know(mesh, names)


async def test_an_agent_that_was_away_while_the_stream_was_truncated_says_so_and_misses_nothing(
    tmp_path: Path,
):
    settings = {"PMOVES_STREAM_MAX_BYTES": str(1 << 20), **FAST}
    with mesh_in(tmp_path) as mesh:
        alpha, beta = mesh.started("alpha", **settings), mesh.started("beta", **settings)
        names = register(alpha, 0, 3)
        all_know(mesh, names)
        alpha.terminate()
        names |= register(beta, 0, 5)
        for number in range(100):
            beta.register("busy", port=1, metadata={"text": "x" * 15_000, "run": number})
        names |= {"busy"}
        alpha.restart()
        assert alpha.registry["repairs"]["truncated"] == 1
        assert alpha.logged("the stream is not what it was", kind="truncated")
        assert any("the stream begins at" in warning for warning in alpha.registry["warnings"])
        all_know(mesh, names)
        assert alpha.get("/api/services/busy").body["metadata"]["run"] == 99


async def test_an_agent_that_stood_still_while_the_stream_was_truncated_says_so_and_misses_nothing(
    tmp_path: Path,
):
    settings = {"PMOVES_STREAM_MAX_BYTES": str(1 << 20), **FAST}
    with mesh_in(tmp_path) as mesh:
        alpha, beta = mesh.started("alpha", **settings), mesh.started("beta", **settings)
        all_know(mesh, register(alpha, 0, 3))
        alpha.pause()
        names = register(beta, 0, 5) | {"busy"} | {f"of-alpha-{number}" for number in range(3)}
        for number in range(150):
            beta.register("busy", port=1, metadata={"text": "x" * 15_000, "run": number})
        async with plain_client(mesh.server.url) as client:
            assert (await client.jetstream().stream_info(STREAM)).state.first_seq > 60
        alpha.resume()
        all_know(mesh, names)
        assert alpha.get("/api/services/busy").body["metadata"]["run"] == 149


def test_what_is_mended_is_counted_in_the_metrics(alpha: AgentProcess):
    text = alpha.get("/metrics").text
    for kind in ("dropped", "fetched", "restated", "bucket", "truncated", "replaced"):
        assert f'pmoves_mesh_repairs_total{{kind="{kind}"}}' in text
    assert set(json.loads(alpha.get("/api/status").text)["registry"]["repairs"]) >= {"bucket", "replaced"}


@pytest.mark.parametrize("lost", ["the stream", "everything"])
async def test_a_revocation_keeps_its_effect_in_a_stream_whose_positions_begin_again(mesh: Mesh, lost: str):
    alpha, beta = mesh.agents["alpha"], mesh.agents["beta"]
    alpha.register("of-alpha", port=1)
    beta.register("of-beta", port=1)
    all_know(mesh, {"of-alpha", "of-beta"})
    done = alpha.run("certs", "revoke", "beta", "--reason", "stolen")
    assert done.returncode == 0, done.stderr
    eventually(lambda: alpha.names() == ["of-alpha"], "alpha heeds it")
    if lost == "everything":
        mesh.server.kill()
        shutil.rmtree(mesh.server.directory / "store")
        mesh.server.start()
    else:
        await delete_stream(mesh, STREAM)
    eventually(lambda: alpha.is_ready() and alpha.registry["repairs"]["replaced"] == 1, "alpha begins anew")
    gamma = mesh.started("gamma", **FAST)
    for agent in (alpha, gamma):
        eventually(lambda agent=agent: agent.names() == ["of-alpha"], f"{agent.node} believes alpha alone")
        eventually(lambda agent=agent: agent.registry["rejected"].get("revoked", 0) > 0, "beta is refused")
    assert "revoked" in beta.post("/api/services", {"name": "defiant", "port": 2}).body["detail"]
