"""What is made of answers on the local network, which anybody may give."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from pmoves_mesh.agent import lan
from pmoves_mesh.agent.lan import SERVICE_TYPE, Hub
from pmoves_mesh.config import load

zeroconf = pytest.importorskip("zeroconf.asyncio", reason="mDNS takes the package zeroconf")
errors = pytest.importorskip("zeroconf")


def hubs(properties: dict[str, str | bytes], *addresses: str, port: int = 8100) -> list[Hub]:
    info = zeroconf.AsyncServiceInfo(
        SERVICE_TYPE,
        f"main.{SERVICE_TYPE}",
        port=port,
        properties=properties,
        parsed_addresses=list(addresses),
    )
    return list(lan._hubs([info]))


def test_an_answer_says_where_to_ask():
    assert hubs({"mesh": "home", "node": "main"}, "10.0.0.5", "2001:db8::5") == [
        Hub(mesh="home", node="main", urls=("https://10.0.0.5:8100", "https://[2001:db8::5]:8100"))
    ]


@pytest.mark.parametrize(
    "properties",
    [{}, {"mesh": "home"}, {"mesh": "home", "node": "../x"}, {"mesh": b"\xff\x1b[2J", "node": "main"}],
)
def test_an_answer_without_proper_names_is_passed_over(properties: dict[str, str | bytes]):
    assert hubs(properties, "10.0.0.5") == []


def test_an_answer_that_leads_nowhere_is_passed_over():
    named: dict[str, str | bytes] = {"mesh": "home", "node": "main"}
    assert hubs(named) == hubs(named, "169.254.0.7") == hubs(named, "10.0.0.5", port=0) == []


def test_a_name_that_no_service_can_have_is_passed_over():
    names = ["odd", f"{'a' * 70}.{SERVICE_TYPE}", f"a\x1b[2J.{SERVICE_TYPE}", f"main.{SERVICE_TYPE}"]
    assert [info.name for info in lan._asked_for(names)] == [names[-1]]


@pytest.mark.parametrize(
    "error", [OSError("no such device"), RuntimeError("no interfaces"), errors.NonUniqueNameException()]
)
async def test_an_agent_goes_on_where_mdns_cannot_be_spoken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
):
    tried: list[int] = []

    async def fails(_ground: object, port: int) -> None:
        tried.append(port)
        raise error

    class Impatient:
        async def sleep(self, _seconds: float) -> None:
            if len(tried) == 3:
                raise asyncio.CancelledError

    monkeypatch.setattr(lan, "_tell", fails)
    monkeypatch.setattr(lan, "keeps_ca", lambda _: True)
    config = load({"SERVICE_REGISTRY_HOST": "0.0.0.0", "MESH_HOSTNAME": "main"}, tmp_path)
    (tell,) = lan.telling(SimpleNamespace(config=config, clock=Impatient()), 8100)  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await tell()
    assert tried == [8100] * 3


async def test_without_the_package_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lan, "find_spec", lambda _: None)
    assert not lan.is_usable()
    assert await lan.find() == []
