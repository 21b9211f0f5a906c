"""The snapshot file: signed, proved line by line, and put back without undoing anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from builders import NOW_MS, Authority, registered
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent import backup
from pmoves_mesh.config import load
from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.backup import Header, pack
from pmoves_mesh.errors import MalformedEvent

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


def said(agent: AgentProcess, *arguments: str) -> dict[str, Any]:
    done = agent.run("snapshot", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def save(agent: AgentProcess, path: Path) -> dict[str, Any]:
    eventually(lambda: agent.run("bucket", "check").returncode == 0, "the bucket is whole")
    return said(agent, "save", str(path))


def knows(agent: AgentProcess, names: set[str]) -> None:
    eventually(lambda: set(agent.names()) == names, f"{agent.node} knows {names}")


def test_a_mesh_that_lost_everything_with_a_node_gets_it_all_back_from_the_file(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess, tmp_path: Path
):
    alpha.register("whisper", port=1)
    beta.register("rag", port=2)
    beta.register("evicted", port=3)
    assert alpha.run("deregister", "beta/evicted", "--force").returncode == 0
    mesh.agree()
    beta.terminate()
    file = tmp_path / "mesh.snapshot"
    saved = save(alpha, file)
    assert saved["signer"] == "spiffe://pmoves-mesh/node/alpha"
    assert (saved["records"], saved["left_out"]) == (6, [])
    alpha.terminate()
    mesh.server.kill()
    shutil.rmtree(mesh.server.directory / "store")
    (alpha.data_dir / "snapshot.db").unlink()
    mesh.server.start()
    alpha.restart()
    knows(alpha, {"whisper"})
    plan = said(alpha, "restore", str(file), "--dry-run")
    assert {"service.rag.beta.2", "service.evicted.beta.3", "evicted.evicted.beta._", "node.beta"} <= set(
        plan["keys"]
    )
    assert plan["published"] == 0
    assert set(alpha.names()) == {"whisper"}
    done = said(alpha, "restore", str(file))
    assert done["keys"] == plan["keys"]
    assert done["certificates"]
    knows(alpha, {"whisper", "rag"})
    assert alpha.get("/api/nodes/beta").body["status"] == "left"
    knows(mesh.started("gamma", **FAST), {"whisper", "rag"})
    assert said(alpha, "restore", str(file))["keys"] == []
    beta.restart()
    mesh.agree()
    knows(beta, {"whisper", "rag"})


def test_what_was_said_or_removed_since_is_not_undone_by_an_older_file(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess, tmp_path: Path
):
    alpha.register("whisper", port=1, id="one")
    beta.register("gone-since", port=2)
    assert alpha.run("deregister", "beta/lifted-since", "--force").returncode == 0
    beta.register("lifted-since", port=3)
    mesh.agree()
    file = tmp_path / "mesh.snapshot"
    save(alpha, file)
    alpha.register("whisper", port=5, id="one")
    assert beta.delete("/api/services/gone-since").status == 200
    assert alpha.run("deregister", "beta/lifted-since", "--lift").returncode == 0
    mesh.agree()
    done = said(alpha, "restore", str(file))
    assert (done["keys"], done["published"]) == ([], 0)
    knows(beta, {"whisper", "lifted-since"})
    assert beta.get("/api/services/whisper").body["port"] == 5


def test_each_changed_line_is_refused_by_its_name_and_the_file_of_another_mesh_is_too(
    mesh: Mesh, alpha: AgentProcess, tmp_path: Path
):
    alpha.register("whisper", port=1)
    mesh.agree()
    file = tmp_path / "mesh.snapshot"
    save(alpha, file)
    lines = file.read_bytes().split(b"\n")
    names = []
    for number, line in enumerate(lines[:-1]):
        changed = bytearray(line)
        place = len(changed) // 2
        changed[place] = ord("0") if changed[place] != ord("0") else ord("1")
        file.write_bytes(b"\n".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
        done = alpha.run("snapshot", "restore", str(file), "--dry-run")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        names.append(done.stderr.partition("mesh.snapshot: ")[2])
    assert any("record service.whisper.alpha.1" in name for name in names), names
    assert all(name.startswith(f"line {number}") for number, name in enumerate(names[:-1], 1)), names
    assert names[-1].startswith("the last line")
    file.write_bytes(b"\n".join([*lines[:2], *lines[3:]]))
    assert "were signed" in alpha.run("snapshot", "restore", str(file)).stderr
    with mesh_in(tmp_path / "other") as other:
        stranger = other.started("stranger")
        stranger.register("foreign", port=1)
        foreign = tmp_path / "foreign.snapshot"
        save(stranger, foreign)
    refused = alpha.run("snapshot", "restore", str(foreign))
    assert refused.returncode == 1
    assert "nobody of this mesh signed it" in refused.stderr
    absent = alpha.run("snapshot", "restore", str(tmp_path / "nothing"))
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    assert "No such file" in absent.stderr


async def test_a_record_that_does_not_prove_itself_is_refused_although_a_node_signed_the_file(tmp_path: Path):
    authority = Authority()
    alpha, stranger = authority.identity("alpha"), Authority().identity("alpha")
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.crt").write_bytes(authority.root.public_bytes(Encoding.PEM))
    config = load({}, tmp_path)
    header = Header(mesh=config.mesh, made="", position=1, stream="", roots=())
    event = registered(1)
    for signer, key, believed in (
        (alpha, "service.rag.alpha.1", True),
        (stranger, "service.rag.alpha.1", False),
        (alpha, "service.other.alpha.1", False),
    ):
        record = records.record_of(envelope.seal(event, signer), event, position=1, time_ms=NOW_MS)
        data = pack(header, {alpha.fingerprint: alpha.der}, {key: record}, alpha, alpha.der)
        if believed:
            assert (await backup._checked(config, data)).records == {key: record}
        else:
            with pytest.raises(MalformedEvent, match=f"record {key}: does not prove itself"):
                await backup._checked(config, data)
