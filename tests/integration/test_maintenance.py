"""Maintenance: an instance, a service or a whole node that is hidden, and stays registered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from builders import instance, registered
from care_support import Cared, cared
from http_support import eventually

from pmoves_mesh.errors import StoreError

RAG = "/api/services/rag/maintenance"
ALPHA = "/api/nodes/alpha/maintenance"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Cared]:
    async with cared(tmp_path) as made:
        yield made


async def listed(node: Cared) -> dict[str, str | None]:
    """Returns why each listed instance is in maintenance, by `service/id`; None for those that are not."""
    found = (await node.ask("GET", "/api/services")).body["services"]
    return {
        f"{one['name']}/{one['id']}": one["maintenance_reason"] if one["maintenance"] else None
        for one in found
    }


async def discovered(node: Cared) -> set[str]:
    found = (await node.ask("POST", "/api/discover", [])).body["services"]
    return {f"{one['name']}/{one['id']}" for one in found}


async def test_what_is_in_maintenance_is_listed_and_not_discovered(node: Cared):
    await node.register(id="one", port=1)
    answer = await node.put(RAG, on=True, reason="new disk")
    assert (answer.status, answer.body["count"]) == (200, 1)
    assert answer.position == node.node.broker.bounds().last
    assert answer.body["services"][0]["maintenance_reason"] == "new disk"
    assert await listed(node) == {"rag/one": "new disk"}
    assert await discovered(node) == set()
    assert (await node.ask("GET", "/api/services/rag")).status == 404
    assert (await node.ask("GET", "/api/services?healthy_only=1")).body["count"] == 0
    back = await node.put(RAG, on=False)
    assert back.body["services"][0]["maintenance"] is False
    assert await discovered(node) == {"rag/one"}


async def test_saying_it_again_changes_nothing_and_another_reason_is_told(node: Cared):
    await node.register(id="one", port=1)
    first = await node.put(RAG, on=True, reason="disk")
    again = await node.put(RAG, on=True, reason="disk")
    assert (again.status, node.node.broker.bounds().last) == (200, first.position)
    other = await node.put(RAG, on=True, reason="fan")
    assert (other.position, await listed(node)) == (first.position + 1, {"rag/one": "fan"})
    events = [one.sealed.subject for one in node.node.broker.after(first.position - 1, 100)[0]]
    assert events == ["service.registry.maintenance"] * 2


async def test_one_instance_of_several_is_hidden_by_its_id(node: Cared):
    await node.register(id="one", port=1)
    await node.register(id="two", port=2)
    assert (await node.put(f"{RAG}?id=one", on=True)).body["count"] == 1
    assert await discovered(node) == {"rag/two"}


async def test_it_outlives_what_the_owner_registers_even_after_it_deregistered(node: Cared):
    await node.register(id="one", port=1)
    await node.put(f"{RAG}?id=one", on=True, reason="why")
    await node.register(id="one", port=2)
    assert await listed(node) == {"rag/one": "why"}
    await node.ask("DELETE", "/api/services/rag")
    await node.register(id="one", port=3)
    assert await listed(node) == {"rag/one": "why"}
    await node.ask("DELETE", "/api/services/rag")
    assert (await node.put(f"{RAG}?id=one", on=False)).status == 200
    await node.register(id="one", port=3)
    assert await listed(node) == {"rag/one": None}


async def test_it_outlives_a_restart(tmp_path: Path):
    async with cared(tmp_path) as node:
        await node.register(id="one", port=1)
        await node.put(RAG, on=True, reason="disk")
        await node.put(ALPHA, on=True, reason="move")
    async with cared(tmp_path) as node:
        await node.register(id="one", port=2)
        await node.register(id="two", port=2)
        assert await listed(node) == {"rag/one": "disk", "rag/two": "disk"}
        await node.put(RAG, on=False)
        assert await listed(node) == {"rag/one": "move", "rag/two": "move"}
        await node.put(ALPHA, on=False)
        assert await discovered(node) == {"rag/one", "rag/two"}


async def test_a_whole_node_is_hidden_with_what_it_registers_meanwhile(node: Cared):
    await node.register(id="one", port=1)
    await node.node.tell(registered(1, instance("rag", "beta")))
    answer = await node.put(ALPHA, on=True, reason="new board")
    assert (answer.status, answer.body["count"]) == (200, 1)
    await node.ask("POST", "/api/services", {"name": "late", "id": "one", "port": 2})
    assert await listed(node) == {"late/one": "new board", "rag/1": None, "rag/one": "new board"}
    assert await discovered(node) == {"rag/1"}
    back = await node.put(ALPHA, on=False)
    assert back.body["count"] == 2
    assert await discovered(node) == {"late/one", "rag/1", "rag/one"}


async def test_an_instance_stays_hidden_while_any_of_its_three_marks_is_set(node: Cared):
    await node.register(id="one", port=1)
    for path, reason in ((ALPHA, "node"), (RAG, "service"), (f"{RAG}?id=one", "instance")):
        await node.put(path, on=True, reason=reason)
        assert await listed(node) == {"rag/one": reason}
    for path, reason in ((RAG, "instance"), (f"{RAG}?id=one", "node"), (ALPHA, None)):
        await node.put(path, on=False)
        assert await listed(node) == {"rag/one": reason}


async def test_another_nodes_affair_is_refused_with_its_owner(node: Cared):
    await node.node.tell(registered(1, instance("far", "beta")))
    service = await node.put("/api/services/far/maintenance", on=True)
    assert (service.status, service.body["nodes"]) == (409, ["beta"])
    whole = await node.put("/api/nodes/beta/maintenance", on=True)
    assert (whole.status, whole.body["nodes"]) == (409, ["beta"])
    assert (await node.put("/api/nodes/gamma/maintenance", on=True)).status == 404
    assert (await node.put("/api/services/none/maintenance", on=True)).status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "body"), ({"on": "yes"}, "on"), ({"on": True, "reason": "x" * 1025}, "reason")],
)
async def test_a_bad_wish_names_its_field(node: Cared, body: dict[str, object], field: str):
    answer = await node.put(RAG, **body)
    assert (answer.status, answer.body["field"]) == (422, field)


async def test_health_is_looked_after_in_maintenance_and_maintenance_survives_its_changes(node: Cared):
    await node.register(id="one", check={"type": "ttl", "ttl_s": 600})
    await node.put(RAG, on=True, reason="why")
    await node.put("/api/services/rag/health", status="healthy")
    assert (await node.health())[0] == "healthy"
    assert await listed(node) == {"rag/one": "why"}


async def test_what_the_disk_did_not_take_changes_nothing(node: Cared):
    await node.register(id="one", port=1)
    node.maintenance._path.parent.joinpath("maintenance.json").mkdir()
    answer = await node.put(RAG, on=True)
    assert (answer.status, await discovered(node)) == (503, {"rag/one"})


async def test_what_could_not_be_stated_is_stated_later(node: Cared, monkeypatch: pytest.MonkeyPatch):
    await node.register(id="one", port=1)
    state, failed = node.node.registrations._author.state, 0

    async def full(*arguments: object, **options: object) -> object:
        nonlocal failed
        if failed < 1:
            failed += 1
            raise StoreError("mesh.db", "database or disk is full")
        return await state(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(node.node.registrations._author, "state", full)
    await node.put(RAG, on=True, reason="disk")

    async def hidden() -> bool:
        return await listed(node) == {"rag/one": "disk"}

    await eventually(hidden, "the mark is shown in the end")


@pytest.mark.parametrize("damage", [b"{", b'{"node": 7}', None])
async def test_without_its_file_whatever_is_in_maintenance_stays_so(tmp_path: Path, damage: bytes | None):
    async with cared(tmp_path) as node:
        await node.register(id="one", port=1)
        await node.put(ALPHA, on=True, reason="move")
    path = tmp_path / "maintenance.json"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    async with cared(tmp_path) as node:
        await node.register(id="one", port=2)
        assert await listed(node) == {"rag/one": "move"}
        await node.put(f"{RAG}?id=one", on=False)
        assert await listed(node) == {"rag/one": None}
    assert path.with_suffix(".damaged").exists() == (damage is not None)
