"""Who is told whose certificates hold, and how little it costs where nothing has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from certificates import FileAuthority
from http_support import exposed

from pmoves_mesh.agent.trust.issued import IssuedLister
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.store.issued import Holder, IssuedList
from pmoves_mesh.store.ledger import IssuedCertificate, Ledger

PATH = "/api/trust/issued"
CHANGES: tuple[dict[str, int], ...] = ({}, {"revoked_ms": 1}, {"not_after_ms": 1})
TOLD = IssuedList(
    owner="alpha",
    holders=(Holder(kind="node", name="beta", key_id="a" * 64, fingerprint="b" * 64, not_after_ms=10**13),),
)


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "tls")


async def told() -> IssuedList:
    return TOLD


def issued(number: int, **changed: Any) -> IssuedCertificate:
    fields: dict[str, Any] = {
        "fingerprint": f"{number}" * 64,
        "kind": "node",
        "name": f"node-{number}",
        "key_id": f"{number + 5}" * 64,
        "not_before_ms": 0,
        "not_after_ms": 10**13,
        "der": b"",
        "issued_ms": 0,
        "root": "",
    }
    return IssuedCertificate(**{**fields, **changed})


async def test_a_node_is_told_and_told_once(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca, issued=told) as here:
        beta = here.caller(ca.identity("beta", "node"))
        answer = await beta.ask("GET", PATH)
        assert answer.status == 200
        assert answer.body["owner"] == "alpha"
        assert answer.body["holders"][0]["name"] == "beta"
        again = await beta.ask("GET", PATH, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status == 304


@pytest.mark.parametrize("kind", ["service", "operator"])
async def test_nobody_but_a_node_is_told(tmp_path: Path, ca: FileAuthority, kind: str):
    async with exposed(tmp_path, ca, issued=told, token="secret") as here:
        assert (await here.caller(ca.identity("beta", kind)).ask("GET", PATH)).status == 403
        stranger = here.caller()
        assert (await stranger.ask("GET", PATH)).status == 403
        assert (await stranger.ask("GET", PATH, headers={"Authorization": "Bearer secret"})).status == 403


async def test_where_the_ca_is_not_kept_nobody_is_told(tmp_path: Path, ca: FileAuthority):
    async with exposed(tmp_path, ca) as here:
        assert (await here.caller(ca.identity("beta", "node")).ask("GET", PATH)).status == 404


async def test_the_list_is_what_the_ledger_holds_less_what_was_revoked_or_has_ended(tmp_path: Path):
    ledger, clock = Ledger(tmp_path / "authority.db"), SystemClock()
    lister = IssuedLister("main", ledger, clock)
    assert (await lister()).holders == ()
    for number, change in enumerate(CHANGES):
        await asyncio.to_thread(ledger.record, issued(number, **change))
    found = await lister()
    assert found.owner == "main"
    assert [one.name for one in found.holders] == ["node-0"]
    assert await lister() is found
