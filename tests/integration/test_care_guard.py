"""Who may have commands run and hide nodes over HTTP: not everybody who may write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import MESH
from certificates import FileAuthority
from http_support import HOST, exposed

from pmoves_mesh.core.model import InstanceKey

TOKEN = "let-me-in"
COMMAND = {"name": "rag", "port": 1, "check": {"type": "command", "command": ["true"]}}


class Marks:
    """Takes down who was hidden."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    async def maintain(
        self, service: str, reason: str | None, **_: object
    ) -> tuple[Sequence[InstanceKey], None]:
        self.told.append((service, reason))
        return (), None

    async def maintain_node(
        self, node: str, reason: str | None, **_: object
    ) -> tuple[Sequence[InstanceKey], None]:
        self.told.append((node, reason))
        return (), None


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "ca", MESH)


async def test_a_command_is_registered_from_its_own_host_alone(tmp_path: Path, ca: FileAuthority):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with exposed(tmp_path, ca, token=TOKEN) as node:
        node.mesh.registrations.command_checks = True
        elsewhere = await node.caller().ask("POST", "/api/services", json=COMMAND, headers=bearer)
        assert (elsewhere.status, "own host" in elsewhere.body["detail"]) == (403, True)
        shown = await node.caller(ca.identity("beta", "node")).ask("POST", "/api/services", json=COMMAND)
        assert shown.status == 403
        here = await node.plain(HOST).ask("POST", "/api/services", json=COMMAND)
        assert here.status == 200


async def test_a_certificate_for_services_hides_no_whole_node(tmp_path: Path, ca: FileAuthority):
    marks = Marks()
    wish = {"on": True, "reason": "why"}
    whole, rag = "/api/nodes/alpha/maintenance", "/api/services/rag/maintenance"
    async with exposed(tmp_path, ca, maintainer=marks) as node:
        service = node.caller(ca.identity("rag", "service"))
        assert (await service.ask("PUT", whole, json=wish)).status == 403
        assert (await service.ask("PUT", "/api/services/other/maintenance", json=wish)).status == 403
        assert (await service.ask("PUT", rag, json=wish)).status == 200
        assert (await node.caller().ask("PUT", whole, json=wish)).status == 403
        for name, kind in (("beta", "node"), ("root", "operator")):
            assert (await node.caller(ca.identity(name, kind)).ask("PUT", whole, json=wish)).status == 200
        page = {"Origin": "https://evil.example"}
        assert (await node.plain(HOST).ask("PUT", whole, json=wish, headers=page)).status == 403
    assert marks.told == [("rag", "why"), ("alpha", "why"), ("alpha", "why")]
